"""`npctl explain`: an `Explanation` and verdicts, as text or data. Decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netpol_compiler.model.objects import Pod
from netpol_compiler.policy.verdict import Reason, SideVerdict
from npctl.answers.describe import key_list, rule_words
from npctl.answers.explain import Explanation, Side, explain
from npctl.answers.probes import Try, side_chain, try_places
from npctl.endpoints.endpoints import PortChoice, find_place, find_pods, parse_port, pod_place
from npctl.errors import ExitCode
from npctl.inputs.origin import Origin, open_origin
from npctl.inputs.state import State
from npctl.output import Colour, Format, emit, paint, say, table

if TYPE_CHECKING:
    from npctl.enforcement.enforcement import Enforcement
    from npctl.enforcement.programmed import Programmed
    from npctl.inputs.live import Live


def run(target: str, origin: Origin, to: list[str], source: list[str], port: str | None, rules: bool, output: Format) -> None:
    """Explain a pod, or the verdicts on its connections `to` and from `source`. Exits with 1 when one is refused."""
    choice = parse_port(port) if port else None
    state, namespace, _, live = open_origin(origin)
    pods = find_pods(state, target, namespace)
    pod = pods[0]
    explanation = explain(state, pod)
    tries = _tries(state, pod, namespace, to, source, choice)
    kernel = _kernel(state, pod) if rules and live is None else None
    enforced = _enforced(live, pod, tries) if live is not None else []
    agent = _programmed(live, pod) if rules and live is not None else None
    if output.is_data:
        data = explanation.data
        if len(pods) > 1:
            data["replicas"] = [str(p.key) for p in pods]
        if tries:
            data["verdicts"] = [t.data for t in tries]
        if kernel is not None:
            data["kernel"] = kernel
        if enforced:
            data["enforced"] = [e.data for e in enforced]
        if agent is not None:
            data["programmed"] = agent.data
        emit(data, output)
    else:
        _show(explanation, pods, tries, kernel, output is Format.WIDE)
        for line in (*(agent.lines if agent else ()), *([""] if enforced else ()), *(x for e in enforced for x in e.lines)):
            say(line)
    if any(not t.verdict.allowed for t in tries):
        raise SystemExit(int(ExitCode.NEGATIVE))


def _tries(state: State, pod: Pod, namespace: str, to: list[str], source: list[str], choice: PortChoice | None) -> list[Try]:
    me = pod_place(pod)
    found = [t for text in to for t in try_places(state, me, find_place(state, text, namespace), choice)]
    return found + [t for text in source for t in try_places(state, find_place(state, text, namespace), me, choice)]


def _kernel(state: State, pod: Pod) -> dict[str, Any]:
    from npctl.answers.kernel_view import pod_rules

    return pod_rules(state, pod)


def _enforced(live: Live, pod: Pod, tries: list[Try]) -> list[Enforcement]:
    """Of the pod, and of the other ends: a connection passes two nodes."""
    from npctl.enforcement.enforcement import enforcements

    ends = [place.pod for t in tries for place in (t.source, t.target) if place.pod is not None]
    return enforcements(live, dict.fromkeys([pod, *ends]))


def _programmed(live: Live, pod: Pod) -> Programmed:
    from npctl.enforcement.programmed import programmed

    return programmed(live, pod)


def _show(explanation: Explanation, pods: list[Pod], tries: list[Try], kernel: dict[str, Any] | None, wide: bool) -> None:
    if tries:
        for index, attempt in enumerate(tries):
            if index:
                say()
            _show_try(attempt)
    else:
        _show_pod(explanation, pods)
        for side in explanation.sides:
            say()
            _show_side(side, wide)
    if explanation.notes:
        say()
        for note in explanation.notes:
            say(f"{paint('Note', Colour.YELLOW)} ({note.code}): {note.message}.")
    if kernel is not None:
        _show_kernel(kernel)


def _show_pod(explanation: Explanation, pods: list[Pod]) -> None:
    pod = explanation.pod
    addresses = ", ".join(a.text for a in pod.addresses) or "no address"
    say(f"{paint(f'Pod {pod.key}', Colour.BOLD)} on node {pod.node or '(none yet)'}, {addresses}")
    if pod.labels:
        say("Labels: " + ", ".join(f"{k}={v}" for k, v in pod.labels.items()))
    if len(pods) > 1:
        say(f"The same holds for its {len(pods) - 1} other replicas.")


def _show_side(side: Side, wide: bool) -> None:
    name = side.direction.api_name
    who, head = ("reach this pod", "FROM") if name == "Ingress" else ("be reached from this pod", "TO")
    if not side.isolated:
        say(f"{paint(name, Colour.BOLD)}: not isolated, no policy selects this pod: everything may {who}.")
        return
    say(f"{paint(name, Colour.BOLD)}: isolated by {key_list(side.policies)}.")
    if not side.grants:
        say(f"  No rule allows anything: nothing may {who}.")
    else:
        say(f"  Only this may {who}:")
        rows = [
            [p.line if i == 0 else f"or {p.line}", g.ports_line if i == 0 else "", f"{g.policy} {g.rule}" if i == 0 else ""]
            for g in side.grants
            for i, p in enumerate(g.peers)
        ]
        for line in table([head, "PORTS", "BY"], rows):
            say(f"  {line}")
    if wide:
        for key in sorted({k for g in side.grants for p in g.peers for k in p.pods or ()}):
            say(f"  pod now: {key}")
    say("  And always: replies, the pod itself, and its own node.")


def _show_try(attempt: Try) -> None:
    c, verdict = attempt.connection, attempt.verdict
    word = paint("allowed", Colour.GREEN) if verdict.allowed else paint("refused", Colour.RED)
    say(f"{paint(word, Colour.BOLD)}: {attempt.source.label} -> {attempt.target.label}, {attempt.port}")
    say(f"  {c.source} -> {c.destination}" + (f", through {attempt.via}" if attempt.via else ""))
    for side in (verdict.egress, verdict.ingress):
        say(f"  {side.direction.value:<8}{_side_line(side)}")


def _side_line(side: SideVerdict) -> str:
    chain = side_chain(side)
    where = f" [chain {chain}]" if chain else ""
    if side.reason is Reason.RULE and side.rule_index is not None:
        return f"allowed by {side.policy} {rule_words(side.direction, side.rule_index)}{where}"
    if side.reason is Reason.DEFAULT_DENY:
        word = paint("refused", Colour.RED)
        return f"{word}: {side.pod} is isolated by {key_list(side.isolating)}, and no rule of theirs allows it{where}"
    return f"{'allowed' if side.allowed else 'refused'}: {side.words}"


def _show_kernel(kernel: dict[str, Any]) -> None:
    for family, chains in kernel["chains"].items():
        say(f"\nChains on node {kernel['node']}, IPv{family}:")
        if not chains:
            say("  none: this pod is not isolated")
        for name, rules in chains.items():
            say(f"  {paint(name, Colour.BOLD)}")
            for rule in rules:
                say(f"    {rule}")
    if kernel["sets"]:
        say("\nSets:")
    for name, ipset in kernel["sets"].items():
        say(f"  {paint(name, Colour.BOLD)} ({ipset['type']}): {', '.join(ipset['members']) or 'empty'}")
