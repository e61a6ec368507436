"""What people write for one end of a connection, and what it means in the loaded state.

In: `pod/X`, `NS/X`, `pod/NS/X`, `deployment/X`, `svc/X`, `svc/NS/X`, `node/X`, `host/ADDRESS`, an address; a port.
Out: `Place` and `PortChoice`, or a `CommandError` that names the candidates. Pods may be named by a unique beginning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import Key, Pod
from npctl.errors import CommandError, usage
from npctl.inputs.state import State

_POD = ("pod", "pods", "po")
_SERVICE = ("svc", "service", "services")
_NODE = ("node", "nodes", "no")
_WORKLOAD = {
    "deploy": "Deployment", "deployment": "Deployment", "deployments": "Deployment",
    "rs": "ReplicaSet", "replicaset": "ReplicaSet", "sts": "StatefulSet", "statefulset": "StatefulSet",
    "ds": "DaemonSet", "daemonset": "DaemonSet", "job": "Job", "jobs": "Job",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """One end. `node` is set when it is a node itself (or a pod on its network); `service` for a Service's address."""

    label: str
    addresses: tuple[Address, ...] = ()
    pod: Pod | None = None
    node: str = ""
    service: Key | None = None


@dataclass(frozen=True, slots=True)
class PortChoice:
    """--port as written: a number or a name (then `number` is None), or ICMP (`protocol` None)."""

    protocol: Protocol | None
    number: int | None = None
    name: str = ""


def parse_port(text: str) -> PortChoice:
    """`8080`, `8080/tcp`, `53/udp`, `http`, `icmp`. Raises CommandError for anything else."""
    place, _, protocol_text = text.partition("/")
    if text.lower() == "icmp":
        return PortChoice(None)
    try:
        protocol = Protocol((protocol_text or "tcp").upper())
    except ValueError as error:
        raise usage(f"--port {text}: the protocol must be tcp, udp or sctp", "write --port 8080/tcp, 53/udp or icmp") from error
    if place.isascii() and place.isdigit():
        if not 1 <= int(place) <= 65535:
            raise usage(f"--port {text}: a port is 1 to 65535")
        return PortChoice(protocol, int(place))
    if not place:
        raise usage(f"--port {text}: the number is missing", "write --port 8080/tcp")
    return PortChoice(protocol, name=place)


def find_pods(state: State, text: str, namespace: str) -> list[Pod]:
    """The pods that `text` names: one, or all of a workload's. Raises CommandError when there is none, or no one choice."""
    kind, name = _split(text)
    parts = name.split("/")
    namespace = parts[0] if len(parts) == 2 else namespace
    if kind == "" and len(parts) == 2 and parts[0] not in state.namespaces:
        raise usage(
            f"{text}: there is neither a kind nor a namespace {parts[0]!r}", "write pod/NAME, deployment/NAME or NAMESPACE/NAME"
        )
    if len(parts) > 2 or kind in (*_SERVICE, *_NODE, "host"):
        raise usage(f"{text} is not a pod", "write pod/NAME or deployment/NAME, with -n NAMESPACE")
    name = parts[-1]
    if kind in _WORKLOAD:
        return _owned(state, _WORKLOAD[kind], Key(namespace, name))
    mine = sorted((p for p in state.cluster.pods.values() if p.key.namespace == namespace), key=lambda p: p.key)
    exact = [p for p in mine if p.key.name == name]
    found = exact or [p for p in mine if name and p.key.name.startswith(name)]
    if len(found) == 1:
        return found
    owners = {state.owners.get(p.key) for p in found}
    if found and len(owners) == 1 and None not in owners:
        return found[:1]  # replicas of one workload: any of them answers for all
    if found:
        raise usage(f"pod {namespace}/{name} is not one pod but {_some(p.key.name for p in found)}", "write more of the name")
    raise _no_such(state, "pod", namespace, name, (p.key for p in state.cluster.pods.values()))


def _split(text: str) -> tuple[str, str]:
    head, slash, rest = text.partition("/")
    known = (*_POD, *_SERVICE, *_NODE, *_WORKLOAD, "host")
    return (head.lower(), rest) if slash and rest and head.lower() in known else ("", text)


def _owned(state: State, kind: str, key: Key) -> list[Pod]:
    """The pods of one workload, which may be named by a unique beginning."""
    owners = {Key(k.namespace, o[1]) for k, o in state.owners.items() if o[0] == kind}
    named = [o for o in owners if o == key] or [o for o in owners if o.namespace == key.namespace and o.name.startswith(key.name)]
    if len(named) > 1:
        raise usage(f"{kind} {key} is not one but {_some(sorted(o.name for o in named))}", "write more of the name")
    if not named:
        raise _no_such(state, kind, *key, owners)
    pods = state.cluster.pods
    return [pods[k] for k in sorted(pods) if k.namespace == key.namespace and state.owners.get(k) == (kind, named[0].name)]


def _no_such(state: State, kind: str, namespace: str, name: str, keys: Iterable[Key]) -> CommandError:
    keys = sorted(keys)
    elsewhere = sorted({k.namespace for k in keys if k.name.startswith(name) and k.namespace != namespace})
    here = [k.name for k in keys if k.namespace == namespace]
    if elsewhere:
        remedy = f"it is in namespace {', '.join(elsewhere)}: add -n {elsewhere[0]}"
    elif here:
        remedy = f"namespace {namespace} has {_some(here)}"
    else:
        remedy = state.remedy
    return usage(f"no {kind} {namespace}/{name}", remedy)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def find_place(state: State, text: str, namespace: str) -> Place:
    """One end of a connection. Raises CommandError when it cannot be found."""
    kind, name = _split(text)
    if kind in ("", "host"):
        try:
            return _address_place(state, text, parse_address(name))
        except ValueError:
            if kind == "host":
                raise usage(f"{text}: {name} is not an address", "write host/172.31.7.109") from None
    if kind in _NODE:
        node = state.cluster.nodes.get(name)
        if node is None:
            raise usage(f"no node {name}", f"the nodes are {_some(sorted(state.cluster.nodes)) or 'unknown: none is told'}")
        return Place(f"node/{name}", node.addresses, node=name)
    if kind in _SERVICE:
        parts = name.split("/")
        key = Key(parts[0] if len(parts) == 2 else namespace, parts[-1])
        if key not in state.services:
            raise _no_such(state, "Service", *key, state.services)
        return Place(f"svc/{key}", service=key)
    return pod_place(find_pods(state, text, namespace)[0])


def pod_place(pod: Pod) -> Place:
    return Place(str(pod.key), pod.addresses, pod, node=pod.node if pod.host_network else "")


def _address_place(state: State, text: str, address: Address) -> Place:
    pod = state.judge.pod_at(address)
    if pod is not None:
        return Place(f"{pod.key} ({address})", (address,), pod)
    for node in state.cluster.nodes.values():
        if address in node.addresses:
            return Place(f"node/{node.name} ({address})", (address,), node=node.name)
    return Place(text, (address,))
