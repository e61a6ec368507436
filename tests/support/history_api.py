"""Everything that an API server held while a test did something, version by version, and whether all of the IR was justified.

    with History(cluster) as history:
        ... kill the leader, change things ...
    history.check()
    history.check_verdicts(ground.namespace, ["friend -> server 8080"], ["stranger -> server 8080"])

The API server orders all writes by resourceVersion, and a watch tells each of them. So of each version of an IR object it can be
said whether some state of the users' objects before it gives just that, and whether it is a later one than the version before
was made of: what goes back to an older state is a fault. Namespaces must keep their labels meanwhile, for simplicity.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from cluster_api import Cluster as ClusterApi
from ir_api import Document, wire_fields
from netpol_api.kinds import ADDRESS_SET, COMPILED_POLICY, NAMESPACE, NETWORK_POLICY, POD
from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import Cluster, Connection, Key, Pod
from netpol_compiler.policy import wire
from netpol_compiler.policy.index import Index
from netpol_compiler.policy.ir import IR, AddressSet, CompiledPolicy, SetSpec
from netpol_compiler.policy.translate import translate
from netpol_compiler.policy.verdict import Judge
from netpol_compiler.reading.objects import parse_namespace, parse_pod, parse_policy
from netpol_kube.client import ApiClient, KubeError
from netpol_kube.credentials import from_kubeconfig
from netpol_kube.reflector import Identity, identity_of

FOLLOWED = {
    "AddressSet": ADDRESS_SET.path(),
    "CompiledPolicy": COMPILED_POLICY.path(),
    "NetworkPolicy": NETWORK_POLICY.path(),
    "Pod": POD.path(),
}
Members = frozenset[str]


class Event(NamedTuple):
    """One version of an object, or its end. `version` is the API server's."""

    version: int
    kind: str
    gone: bool
    data: Any


class History:
    """Follows from entry to exit; the watch must not break meanwhile."""

    def __init__(self, cluster: ClusterApi) -> None:
        self._cluster = cluster
        self._initial: list[Event] = []
        self._later: list[Event] = []
        self._namespaces: list[Any] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="history", daemon=True)
        self._tasks: list[asyncio.Task[None]] = []
        self._broken: list[BaseException] = []

    def __enter__(self) -> History:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._cluster.wait_for(self._caught_up, 10, "the watches have told all there is")
        finally:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _begin(self) -> None:
        self._client = ApiClient(from_kubeconfig(self._cluster.kubeconfig), "history")
        self._namespaces = [item async for page in self._client.pages(NAMESPACE.path()) for item in page.items]
        for kind, path in FOLLOWED.items():
            version = ""
            async for page in self._client.pages(path):
                version = page.resource_version
                self._initial += [_event(kind, "ADDED", item) for item in page.items]
            self._tasks.append(asyncio.create_task(self._follow(kind, path, version)))

    async def _follow(self, kind: str, path: str, version: str) -> None:
        try:
            while True:
                async for how, data in self._client.watch(path, version):
                    version = data["metadata"]["resourceVersion"]
                    if how != "BOOKMARK":
                        self._later.append(_event(kind, how, data))
        except KubeError as error:
            self._broken.append(error)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def _caught_up(self) -> bool:
        assert not self._broken, self._broken
        held: dict[tuple[str, tuple[str, str]], str] = {}
        for event in (*self._initial, *self._events()):
            place = (event.kind, identity_of(event.data))
            if event.gone:
                held.pop(place, None)
            else:
                held[place] = event.data["metadata"]["resourceVersion"]
        items = self._cluster.items("addresssets,compiledpolicies,networkpolicies,pods", "-A")
        return held == {(i["kind"], identity_of(i)): i["metadata"]["resourceVersion"] for i in items}

    # -- the judgement ---------------------------------------------------------------------------------

    def written(self, kind: str) -> int:
        """How many versions of this kind were written, ends too."""
        return sum(event.kind == kind for event in self._later)

    def check(self) -> None:
        """Raise AssertionError with every version of an IR object that no state of the users' objects justifies."""
        faults = [*self._set_faults(), *self._policy_faults(), *self._order_faults()]
        assert not faults, "\n".join(faults)

    def check_verdicts(self, namespace: str, always: Iterable[str], never: Iterable[str]) -> None:
        """Raise AssertionError with every version of the IR as a whole by which a connection of `always` is refused, or one of
        `never` allowed. Connections are written as `friend -> server 8080`: pods that were there all the while."""
        sets: dict[str, AddressSet] = {}
        policies: dict[Key, CompiledPolicy] = {}
        pods: dict[Key, Pod] = {}
        wanted = [*((line, True) for line in always), *((line, False) for line in never)]
        faults = []
        for number, event in enumerate((*self._initial, *self._events()), 1):
            _fold(event, sets, policies, pods)
            if number < len(self._initial) or event.kind not in ("AddressSet", "CompiledPolicy"):
                continue
            judge = Judge(IR(sets, policies), Cluster({}, pods, {}, {}))
            for line, allowed in wanted:
                verdict = judge.judge(_connection(pods, namespace, line))
                if verdict.allowed != allowed:
                    faults.append(f"at {event.version} {line} is not as it must be: {verdict.deciding.words}")
        assert not faults, "\n".join(faults)

    def _events(self, *kinds: str) -> list[Event]:
        """What was written since entry, in the order of the API server."""
        return sorted((e for e in self._later if e.kind in kinds or not kinds), key=lambda event: event.version)

    def _set_faults(self) -> Iterator[str]:
        states = self._set_states()
        reached: dict[str, int] = {}
        for event in (*self._initial, *self._events("AddressSet")):
            if event.kind != "AddressSet" or event.gone:
                continue
            spec = event.data["spec"]
            name, members = spec["name"], frozenset(spec["members"])
            assert spec["slices"] == 1, "sets of this many members are not followed"
            start = reached.get(name, 0)
            for index in range(start, len(states[name])):
                version, justified = states[name][index]
                if justified == members and version < event.version:
                    reached[name] = index
                    break
            else:
                yield f"set {spec['words']} at {event.version}: {sorted(members)} is none of {states[name][start:]}"

    def _set_states(self) -> Mapping[str, list[tuple[int, Members]]]:
        """For each set its members over time: (since which version, members)."""
        specs = self._specs()
        index = Index()
        for data in self._namespaces:
            value, _ = parse_namespace(data)
            if value is not None:
                index.set_namespace(value)
        for name, spec in specs.items():
            index.want(name, spec)
        for event in self._initial:
            _take_pod(index, event)
        index.take_dirty()
        states: dict[str, list[tuple[int, Members]]] = {name: [(0, _members(index, name))] for name in specs}
        for event in self._events("Pod"):
            _take_pod(index, event)
            for name in index.take_dirty():
                states[name].append((event.version, _members(index, name)))
        return states

    def _specs(self) -> Mapping[str, SetSpec]:
        events = (e for e in (*self._initial, *self._later) if e.kind == "AddressSet")
        documents = {e.data["spec"]["name"]: e.data["spec"] for e in events}
        return {name: wire.slices_from_wire([{**d, "slice": 0, "slices": 1}]).spec for name, d in documents.items()}

    def _policy_faults(self) -> Iterator[str]:
        sources: dict[Identity, list[tuple[str, int, Document]]] = {}
        reached: dict[Identity, int] = {}
        initial = sorted(self._initial, key=lambda event: event.kind != "NetworkPolicy")  # compiled ones come after their sources
        for event in (*initial, *self._events("NetworkPolicy", "CompiledPolicy")):
            place, metadata = identity_of(event.data), event.data["metadata"]
            if event.kind == "NetworkPolicy" and not event.gone:
                policy, _ = parse_policy(event.data)
                if policy is not None:
                    state = (metadata["uid"], int(metadata["generation"]), wire.policy_to_wire(translate(policy).policy))
                    sources.setdefault(place, []).append(state)
            if event.kind != "CompiledPolicy" or event.gone:
                continue
            spec, start = event.data["spec"], reached.get(place, 0)
            wanted = (spec["uid"], spec["sourceGeneration"], wire_fields(spec))
            later = [index for index, state in enumerate(sources.get(place, ())) if index >= start and state == wanted]
            if later:
                reached[place] = later[0]
            else:
                states = [(*state[:2], state[2]["digest"]) for state in sources.get(place, ())]
                known = [state for state in states if spec["uid"] in state or spec["digest"] in state]
                seen = (spec["uid"], spec["sourceGeneration"], spec["digest"])
                yield f"policy {'/'.join(place)} at {event.version}: {seen} is none of {known}"

    def _order_faults(self) -> Iterator[str]:
        """A policy never names a set that is not there."""
        sets = {e.data["spec"]["name"] for e in self._initial if e.kind == "AddressSet"}
        named = {identity_of(e.data): _set_names(e) for e in self._initial if e.kind == "CompiledPolicy"}
        for event in self._events("AddressSet", "CompiledPolicy"):
            if event.kind == "AddressSet":
                (sets.discard if event.gone else sets.add)(event.data["spec"]["name"])
            elif event.gone:
                named.pop(identity_of(event.data), None)
            else:
                named[identity_of(event.data)] = _set_names(event)
            for place, names in named.items():
                if names - sets:
                    yield f"at {event.version} policy {'/'.join(place)} names sets that are not there: {sorted(names - sets)}"


def _event(kind: str, how: str, data: Any) -> Event:
    assert how in ("ADDED", "MODIFIED", "DELETED"), how
    return Event(int(data["metadata"]["resourceVersion"]), kind, how == "DELETED", data)


def _fold(event: Event, sets: dict[str, AddressSet], policies: dict[Key, CompiledPolicy], pods: dict[Key, Pod]) -> None:
    """Make one event's change in what there is."""
    held: dict[Any, Any] = {"AddressSet": sets, "CompiledPolicy": policies, "Pod": pods}.get(event.kind, {})
    key: Any = event.data["spec"]["name"] if event.kind == "AddressSet" else Key(*identity_of(event.data))
    if event.gone:
        held.pop(key, None)
    elif event.kind == "AddressSet":
        held[key] = wire.slices_from_wire([event.data["spec"]])
    elif event.kind == "CompiledPolicy":
        held[key] = wire.policy_from_wire(wire_fields(event.data["spec"]))
    elif (pod := parse_pod(event.data)[0]) is not None:
        held[key] = pod


def _connection(pods: Mapping[Key, Pod], namespace: str, line: str) -> Connection:
    source, _, target, port = line.split()
    ends = [pods[Key(namespace, name)].addresses[0] for name in (source, target)]
    return Connection(*ends, Protocol.TCP, int(port))


def _take_pod(index: Index, event: Event) -> None:
    if event.kind != "Pod":
        return
    if event.gone:
        index.remove_pod(Key(*identity_of(event.data)))
        return
    pod, _ = parse_pod(event.data)
    if pod is not None:
        index.set_pod(pod)


def _members(index: Index, name: str) -> Members:
    return frozenset(map(wire.member_to_wire, index.members(name)))


def _set_names(event: Event) -> frozenset[str]:
    return wire.policy_from_wire(wire_fields(event.data["spec"])).set_names
