"""What a source's thread hands to the agent's loop."""

from __future__ import annotations

from netpol_agent.inputs.mailbox import Mailbox, SourceStatus
from netpol_compiler.model.objects import Key, Labels, Pod


def test_inputs_count_as_complete_only_with_the_batch_that_made_them_so() -> None:
    """Else the agent takes over without its last batch, and deletes the chains of the pods in it."""
    mailbox = Mailbox()
    mailbox.deliver(SourceStatus(complete=False))
    mailbox.take()
    mailbox.pod(Key("a", "web"), Pod(Key("a", "web"), "u1", Labels({})))
    mailbox.deliver(SourceStatus(complete=True))
    assert not mailbox.taken.complete
    assert [pod.key for pod in mailbox.take().pods_up] == [Key("a", "web")]
    assert mailbox.taken.complete
