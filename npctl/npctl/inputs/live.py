"""A cluster as it is now, as the same `State` that files make: what the commands on files ask can be asked of a cluster.

    GET pages: namespaces, pods, networkpolicies, nodes, services --parse--> Cluster --compile--> IR --> Judge
               compiledpolicies, nodereports --------------------> Control: what is in force where

Pods exist here, so no workload is expanded. What the API server accepted and npctl cannot read is a warning and not an error:
that part allows nothing, and the policy isolates all the same. What may not be read of nodes and services is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from netpol_api.in_force import Control, Written, compiled_of, key_of, report_of, written_of
from netpol_api.resources import COMPILED_POLICIES, NAMESPACES, NETWORK_POLICIES, NODE_REPORTS, NODES, PODS
from netpol_compiler.model.objects import Cluster, Key, Namespace, Node, Pod, Policy, Rejected
from netpol_compiler.reading.objects import parse_namespace, parse_node, parse_pod, parse_policy
from netpol_kube.errors import Json
from netpol_manifests.documents import Document
from netpol_manifests.services import Service, parse_service
from netpol_manifests.world import ObjectId, World
from npctl.cluster.api import Access, Api, Refused, connect
from npctl.errors import CommandError, ExitCode
from npctl.inputs.files import Documents
from npctl.inputs.state import State
from npctl.output import warn

SERVICES = "/api/v1/services"
_OBJECTS = (NAMESPACES, PODS, NETWORK_POLICIES, NODES, SERVICES)
NOT_INSTALLED = "npctl is not installed in this cluster, so nothing of it enforces this"
_SHOWN_WARNINGS = 20
_REPLICA_HASH = "pod-template-hash"
T = TypeVar("T")
Parse = Callable[[Mapping[str, Any]], tuple[T | None, tuple[Rejected, ...]]]


@dataclass(frozen=True, slots=True)
class Live:
    """One reading of a cluster. `written`: each policy's uid and generation. `control` None: `unknown` says why not.

    `metadata` is that of namespaces and pods, by identity: diff merges labels as `kubectl apply` would.
    """

    api: Api
    state: State
    written: Mapping[Key, Written]
    control: Control | None
    unknown: str
    metadata: Mapping[ObjectId, Json]


def not_installed(api: Api) -> CommandError:
    """For commands that ask npctl's own parts."""
    return CommandError(
        ExitCode.MISSING,
        f"{api.where}: npctl is not installed in this cluster (it does not know the resources of npctl.dev)",
        "helm install npctl charts/npctl --namespace npctl-system --create-namespace",
    )


def read(access: Access, *, quiet: bool = False) -> Live:
    """Everything that decides, in one round of parallel lists. Raises CommandError when it cannot be read.

    `quiet`: say nothing of what could not be understood (lint says it in its own way).
    """
    api = connect(access)
    answers = api.lists((*_OBJECTS, COMPILED_POLICIES, NODE_REPORTS))
    items = {path: _objects(path, answers[path]) for path in _OBJECTS}
    control, unknown = _control(answers[COMPILED_POLICIES], answers[NODE_REPORTS])
    rejected: list[Rejected] = []
    state = _state(api, items, rejected)
    if not quiet:
        _warn(rejected)
    metadata = {ObjectId("Namespace", "", key_of(i).name): i["metadata"] for i in items[NAMESPACES]}
    metadata |= {ObjectId("Pod", *key_of(i)): i["metadata"] for i in items[PODS]}
    return Live(api, state, {key_of(i): written_of(i) for i in items[NETWORK_POLICIES]}, control, unknown, metadata)


def control_of(compiled: Iterable[Json], reports: Iterable[Json]) -> Control:
    """What npctl's parts have published."""
    return Control({key_of(i): compiled_of(i) for i in compiled}, {r.node: r for r in map(report_of, reports)})


def _control(compiled: list[Json] | Refused, reports: list[Json] | Refused) -> tuple[Control | None, str]:
    """What npctl has in force, or why that is not known: it is not installed, or may not be read."""
    for answer in (compiled, reports):
        if isinstance(answer, Refused):
            if answer.error.is_forbidden:
                return None, "what npctl has in force may not be read: " + answer.lines[0]
            if answer.error.is_not_found:
                return None, NOT_INSTALLED
            raise answer
    assert not isinstance(compiled, Refused) and not isinstance(reports, Refused)
    return control_of(compiled, reports), ""


def _objects(path: str, answer: list[Json] | Refused) -> list[Json]:
    if not isinstance(answer, Refused):
        return answer
    if not answer.error.is_forbidden or path not in (NODES, SERVICES):
        raise answer
    warn(f"{answer.lines[0]}: {path.rpartition('/')[2]} are left out")
    return []


def _state(api: Api, items: Mapping[str, list[Json]], rejected: list[Rejected]) -> State:
    namespaces: list[Namespace] = _parsed(items[NAMESPACES], parse_namespace, rejected)
    pods: list[Pod] = _parsed(items[PODS], parse_pod, rejected)
    policies: list[Policy] = _parsed(items[NETWORK_POLICIES], parse_policy, rejected)
    nodes: list[Node] = _parsed(items[NODES], parse_node, rejected)
    services: list[Service] = _parsed(items[SERVICES], parse_service, rejected)
    cluster = Cluster(
        {n.name: n for n in namespaces}, {p.key: p for p in pods}, {p.key: p for p in policies}, {n.name: n for n in nodes}
    )
    documents = {ObjectId("NetworkPolicy", *key_of(i)): policy_document(i) for i in items[NETWORK_POLICIES]}
    world = World(
        nodes=cluster.nodes,
        namespaces=cluster.namespaces,
        pods=cluster.pods,
        services={s.key: s for s in services},
        policies=cluster.policies,
        objects={},
        documents=documents,
    )
    owned = {key_of(i): owner for i in items[PODS] if (owner := owner_of(i)) is not None}
    return State(Documents({}, (), api.where), world, cluster, owned)


def policy_document(item: Json) -> Document:
    """A NetworkPolicy as the API lists it, which leaves kind and version to the list."""
    return Document({**item, "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"})


def _parsed(items: Iterable[Json], parse: Parse[T], rejected: list[Rejected]) -> list[T]:
    found = []
    for item in items:
        value, problems = parse(item)
        rejected += problems
        if value is not None:
            found.append(value)
    return found


def owner_of(item: Json) -> tuple[str, str] | None:
    """(kind, name) of the workload that people know a pod by: a ReplicaSet of a Deployment counts as the Deployment."""
    metadata = item["metadata"]
    owner = next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), None)
    if owner is None:
        return None
    kind, name = str(owner.get("kind")), str(owner.get("name"))
    suffix = "-" + str((metadata.get("labels") or {}).get(_REPLICA_HASH) or "")
    if kind == "ReplicaSet" and len(suffix) > 1 and name.endswith(suffix):
        return "Deployment", name.removesuffix(suffix)
    return kind, name


def _warn(rejected: list[Rejected]) -> None:
    for item in rejected[:_SHOWN_WARNINGS]:
        policy = "; this part allows nothing, and the policy isolates what it selects all the same"
        warn(f"not understood: {item.words}{policy if item.kind == 'NetworkPolicy' else ''}")
    if len(rejected) > _SHOWN_WARNINGS:
        warn(f"and {len(rejected) - _SHOWN_WARNINGS} more that were not understood (npctl lint lists those of policies)")
