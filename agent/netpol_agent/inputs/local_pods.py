"""The pods of this node: which are live, whom each policy selects, and what was handed over. Without I/O and clock.

A policy matters here while it selects a live pod, which is one that policies are about.

    a pod:  cached, in `changed` --hand_over--> notified
"""

from __future__ import annotations

from enum import Enum

from netpol_agent.inputs.mailbox import Mailbox
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.model.selectors import Selector


class NamespaceChange(Enum):
    """What a pod's change means for its namespace."""

    NONE = "it has live pods as before, or none as before"
    FIRST = "its first live pod came"
    LAST = "its last live pod went"


class LocalPods:
    """Pods by key."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.cached: dict[Key, Pod] = {}
        """As the API has them."""
        self.notified: dict[Key, Pod] = {}
        """As they were handed over."""
        self.changed: set[Key] = set()
        """Those that are to be handed over."""
        self.live: dict[str, set[Key]] = {}
        """Live pods by namespace; only namespaces that have one."""
        self.selected: dict[Key, frozenset[Key]] = {}
        """Live pods by the policy that selects them; only policies that select one."""
        self._mailbox = mailbox
        """Where pods are handed over."""

    # -- what comes in ---------------------------------------------------------------------------------

    def put(self, key: Key, pod: Pod | None) -> Pod | None:
        """A pod's new state; None: deleted. Returns its old one."""
        old = self.cached.pop(key, None)
        if pod is not None:
            self.cached[key] = pod
        if pod is not None or old is not None:
            self.changed.add(key)
        return old

    def set_live(self, key: Key, live: bool) -> NamespaceChange:
        """Whether policies are about a pod."""
        pods = self.live.setdefault(key.namespace, set())
        before = bool(pods)
        (pods.add if live else pods.discard)(key)
        if not pods:
            del self.live[key.namespace]
        if before == bool(pods):
            return NamespaceChange.NONE
        return NamespaceChange.FIRST if pods else NamespaceChange.LAST

    def select(self, policy: Key, selector: Selector | None) -> None:
        """A policy's new selector; None: it was deleted."""
        pods = self.live.get(policy.namespace, ()) if selector is not None else ()
        self._set_selected(policy, frozenset(k for k in pods if selector and selector.matches(self.cached[k].labels)))

    def select_pod(self, policy: Key, pod: Key, selects: bool) -> bool:
        """Whether a policy selects a pod. Returns whether that is new."""
        before = self.selected.get(policy, frozenset())
        self._set_selected(policy, before | {pod} if selects else before - {pod})
        return selects != (pod in before)

    def _set_selected(self, policy: Key, pods: frozenset[Key]) -> None:
        if pods:
            self.selected[policy] = pods
        else:
            self.selected.pop(policy, None)

    # -- what is asked ---------------------------------------------------------------------------------

    def has_new_address(self, key: Key) -> bool:
        """Whether the pod has an address here for which nothing is in force yet."""
        pod, notified = self.cached.get(key), self.notified.get(key)
        if pod is None or not pod.is_endpoint:
            return False
        return notified is None or not notified.is_endpoint or not set(pod.addresses) <= set(notified.addresses)

    def keeps_address(self, key: Key) -> bool:
        """Whether the pod was handed over with an address and has one now."""
        pod, notified = self.cached.get(key), self.notified.get(key)
        return pod is not None and notified is not None and pod.is_endpoint and notified.is_endpoint

    # -- what goes out ---------------------------------------------------------------------------------

    def hand_over(self, key: Key) -> None:
        pod = self.cached.get(key)
        if pod is not None:
            self.notified[key] = pod
            self._mailbox.pod(key, pod)
        elif self.notified.pop(key, None) is not None:
            self._mailbox.pod(key, None)


def is_live(pod: Pod | None) -> bool:
    """Whether policies are about this pod, or will be as soon as it has an address."""
    return pod is not None and not pod.host_network and pod.phase not in ("Succeeded", "Failed")
