"""`npctl wait`: returns when policies are in force on every node that needs them, or gone from everywhere.

    names, --all, -f --> which policies --watches--> policies, CompiledPolicies, NodeReports, pods --in_force--> done, or who lags

Nothing is polled: every change that a watch brings is judged at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from netpol_api.api_objects import key_of
from netpol_api.compiled_policy import Compiled, compiled_of
from netpol_api.in_force import Control, Placed, PolicyState, Written, absence, policy_state, written_of
from netpol_api.kinds import COMPILED_POLICY, NETWORK_POLICY, NODE_REPORT, POD
from netpol_api.node_report import NodeReport, report_of
from netpol_compiler.model.objects import Key, Pod, Policy
from netpol_compiler.reading.objects import parse_pod, parse_policy
from netpol_kube.errors import Json
from npctl.cluster.api import Access, Api, Refused, connect
from npctl.cluster.following import Following
from npctl.errors import CommandError, ExitCode, usage
from npctl.inputs.live import not_installed
from npctl.inputs.origin import Origin
from npctl.output import Format, emit, fail, say

_KINDS = (*NETWORK_POLICY.names, "netpols")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_ONE_LOOK = 10.0
"""Seconds that a look without waiting may take."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which policies: `keys`, or all of `namespace` (None: of all namespaces)."""

    keys: tuple[Key, ...]
    namespace: str | None

    @property
    def params(self) -> dict[str, str]:
        """What limits a watch to the only policy that is waited for."""
        return {"fieldSelector": f"metadata.name={self.keys[0].name}"} if len(self.keys) == 1 else {}

    def path(self, whole: str) -> str:
        """A resource's path in the one namespace that matters, or in all."""
        if self.namespace is None:
            return whole
        root, _, resource = whole.rpartition("/")
        return f"{root}/namespaces/{self.namespace}/{resource}"


@dataclass(slots=True)
class Picture:
    """What the watches have brought so far; each list is complete once its path is in `known`."""

    wanted: Wanted
    deletion: bool
    policies: dict[Key, tuple[Policy | None, Written]] = field(default_factory=dict)
    compiled: dict[Key, Compiled] = field(default_factory=dict)
    reports: dict[str, NodeReport] = field(default_factory=dict)
    pods: dict[Key, Pod | None] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    @property
    def paths(self) -> dict[str, dict[str, str]]:
        """What must be watched, and with which parameters."""
        wanted = self.wanted
        paths = {wanted.path(p): wanted.params for p in (NETWORK_POLICY.path(), COMPILED_POLICY.path())}
        paths[NODE_REPORT.path()] = {}
        if not self.deletion:
            paths[wanted.path(POD.path())] = {}
        return paths

    @property
    def complete(self) -> bool:
        return self.known >= set(self.paths)

    def put(self, path: str, data: Json) -> None:
        """An object that is new or has changed."""
        key = key_of(data)
        self._table(path)[key if path != NODE_REPORT.path() else key.name] = self._read(path, data)

    def gone(self, path: str, namespace: str, name: str) -> None:
        """A known object was deleted."""
        self._table(path).pop(Key(namespace, name) if path != NODE_REPORT.path() else name, None)

    def listed(self, path: str) -> None:
        """All objects of a list were told."""
        self.known.add(path)

    def _table(self, path: str) -> dict[Any, Any]:
        tables: dict[str, dict[Any, Any]] = {
            "networkpolicies": self.policies,
            "compiledpolicies": self.compiled,
            "nodereports": self.reports,
            "pods": self.pods,
        }
        return tables[path.rpartition("/")[2]]

    def _read(self, path: str, item: Json) -> object:
        resource = path.rpartition("/")[2]
        if resource == "networkpolicies":
            return parse_policy(item)[0], written_of(item)
        if resource == "compiledpolicies":
            return compiled_of(item)
        return report_of(item) if resource == "nodereports" else parse_pod(item)[0]

    @property
    def in_force(self) -> bool:
        """Whether nothing is left to wait for. Raises CommandError as `states` does."""
        return all(s.in_force for s in self.states())

    def states(self) -> list[PolicyState]:
        """Of each policy that is waited for. Raises CommandError for one that does not exist."""
        control = Control(self.compiled, self.reports)
        traces = {k for k in control.policies if self.wanted.namespace in (None, k.namespace)} if self.deletion else set()
        keys = self.wanted.keys or tuple(sorted(set(self.policies) | traces))
        if self.deletion:
            return [absence(k, self.policies[k][1] if k in self.policies else None, control) for k in keys]
        placed = Placed(p for p in self.pods.values() if p is not None)
        found = []
        for key in keys:
            if key not in self.policies:
                raise usage(
                    f"no NetworkPolicy {key}", "kubectl get networkpolicies -A lists them; to wait for its end: --for=delete"
                )
            policy, written = self.policies[key]
            found.append(policy_state(key, written, placed.nodes_of(policy) if policy else (), control))
        return found


def run(names: list[str], origin: Origin, all_of_them: bool, what: str, timeout: str, output: Format) -> None:
    """Wait; exits with 4 when the time is over, saying who lags and why."""
    seconds = parse_duration(timeout)
    deletion = _is_deletion(what)
    api = connect(Access(origin.kubeconfig, origin.context))
    wanted = _wanted(names, origin, all_of_them, api)
    picture = Picture(wanted, deletion)
    began = time.monotonic()
    following = Following(api, picture.paths, picture)
    try:
        following.until(lambda: picture.complete and (not seconds or picture.in_force), seconds or _ONE_LOOK)
    except Refused as refused:
        raise (not_installed(api) if refused.error.is_not_found else refused) from refused
    passed = time.monotonic() - began
    if not picture.complete:
        _tell([], False, deletion, passed, output)
        line = f"{api.where}: not everything could be read within {timeout}"
        raise CommandError(ExitCode.TIMEOUT, [line, *filter(None, [following.problem])], "raise --timeout")
    states = picture.states()
    done = all(s.in_force for s in states)
    _tell(states, done, deletion, passed, output)
    if not done:
        raise SystemExit(int(ExitCode.TIMEOUT))


def _tell(states: list[PolicyState], done: bool, deletion: bool, passed: float, output: Format) -> None:
    if output.is_data:
        emit({"done": done, "seconds": round(passed, 3), "policies": [s.data for s in states]}, output)
    for state in states:
        if not state.in_force:
            what = "is not gone" if deletion else "is not in force"
            for lag in state.lags:
                fail(f"networkpolicy {state.policy} {what} after {passed:.1f} s: {lag.words}")
        elif not output.is_data:
            say(f"networkpolicy {state.policy} {_result(state, deletion)} ({passed:.2f} s)")
    if done and not states and not output.is_data:
        say("no networkpolicy is there to wait for")


def _result(state: PolicyState, deletion: bool) -> str:
    if deletion:
        return "is gone from every node"
    count = len(state.nodes)
    if not count:
        return "is in force: it selects no pod that runs"
    return f"is in force on {count} node{'s' if count > 1 else ''}"


def _is_deletion(what: str) -> bool:
    if what not in ("inforce", "delete"):
        raise usage(f"--for={what}: npctl waits for inforce (the default) or delete", "kubectl wait knows other conditions")
    return what == "delete"


def _wanted(names: list[str], origin: Origin, all_of_them: bool, api: Api) -> Wanted:
    namespace = origin.namespace or api.namespace
    if all_of_them and [n.lower() in _KINDS for n in names] == [True]:
        names = []  # kubectl's form: the kind, and --all
    if sum((bool(names), all_of_them, bool(origin.files))) != 1:
        raise usage("which policies?", "name networkpolicy/NAME, or --all, or -f FILE; one of the three")
    if all_of_them:
        return Wanted((), None if origin.all_namespaces else namespace)
    keys = tuple(dict.fromkeys(policies_in(origin.files, namespace) if origin.files else _named(names, namespace)))
    spaces = {k.namespace for k in keys}
    return Wanted(keys, spaces.pop() if len(spaces) == 1 else None)


def _named(names: list[str], namespace: str) -> Iterable[Key]:
    if names[0].lower() in _KINDS:  # kubectl's other form: the kind once, then names
        names = [f"{names[0]}/{n}" for n in names[1:]]
        if not names:
            raise usage("which policies?", "name networkpolicy/NAME, or --all, or -f FILE")
    for text in names:
        kind, _, name = text.partition("/")
        if kind.lower() not in _KINDS or not name or "/" in name:
            raise usage(f"{text}: not a NetworkPolicy", "write networkpolicy/NAME (or netpol/NAME), with -n NAMESPACE")
        yield Key(namespace, name)


def policies_in(files: Iterable[str], namespace: str) -> list[Key]:
    """The NetworkPolicies that files hold; one without a namespace is of `namespace`. Raises CommandError."""
    from npctl.inputs.files import read

    found = [d for d in read(list(files)).current.values() if d.kind == "NetworkPolicy"]
    if not found:
        raise usage(f"{', '.join(files)}: there is no NetworkPolicy in it", "name other files with -f")
    return [Key(d.namespace or namespace, d.name) for d in found]


def parse_duration(text: str) -> float:
    """Seconds in `30s`, `1m30s`, `500ms`, `0`, or a plain number of seconds. Raises CommandError."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not text or _DURATION.sub("", text):
        raise usage(f"--timeout {text}: not a duration", "write 30s, 500ms or 1m30s; 0 asks once")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
