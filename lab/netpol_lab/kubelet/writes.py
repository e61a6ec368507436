"""What the lab's kubelets and controllers write to the API server, worked out in each pass from what is and what should be.

In: a plan that is real, and the objects as they were last seen. Out: requests, asked of `Writes`. Every write says which
version or which uid of the object it means, so that one that comes late hits nobody else.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from netpol_api.api_objects import Json
from netpol_api.kinds import EVENT, NODE, POD
from netpol_compiler.model.objects import TERMINAL_PHASES, Key
from netpol_kube.client import ApiClient, ApiError
from netpol_lab.kubelet import pod_status
from netpol_lab.kubelet.informer_cache import KINDS, Cache
from netpol_lab.kubelet.planner import Plan, Problem, controller_of
from netpol_lab.kubelet.pod_status import Run
from netpol_lab.kubelet.work_queue import Writes
from netpol_manifests.world import ObjectId

MANAGER = "npctl-lab"
NOT_READY_TAINT = "node.kubernetes.io/not-ready"
_FOREGROUND = "foregroundDeletion"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One pass. `run_of(key, uid)`: how a pod's program does, None where it has none. `now` is RFC 3339 text."""

    client: ApiClient
    writes: Writes
    cache: Cache
    plan: Plan
    run_of: Callable[[Key, str], Run | None]
    now: str


def ask_for(wanted: Wanted) -> None:
    """Ask for every write that is still missing."""
    _pods_of_workloads(wanted)
    _bindings(wanted)
    _ends(wanted)
    _pod_statuses(wanted)
    _nodes(wanted)
    _workloads(wanted)
    _events(wanted)


def _pods_of_workloads(wanted: Wanted) -> None:
    for key, body in wanted.plan.create.items():
        basis = (body["metadata"]["ownerReferences"][0]["uid"], wanted.cache.deletions[key])
        wanted.writes.ask(("create", "Pod", str(key)), basis, _call(wanted.client.create, POD.path(key.namespace), body))
    for key, uid in wanted.plan.delete.items():
        body = {"preconditions": {"uid": uid}}
        wanted.writes.ask(("delete", "Pod", str(key)), uid, _call(wanted.client.delete, POD.path(*key), body))


def _bindings(wanted: Wanted) -> None:
    for key, (uid, node) in wanted.plan.bind.items():
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        work = _call(wanted.client.create, f"{POD.path(*key)}/binding", body)
        wanted.writes.ask(("bind", "Pod", str(key)), (uid, node), work)


def _ends(wanted: Wanted) -> None:
    """Deleted pods whose network is gone, and those that no node of the lab would let go."""
    gone = dict(wanted.plan.remove)
    gone |= {key: s.uid for key, s in wanted.cache.strangers.items() if s.deleted}
    for key, uid in gone.items():
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        pod = wanted.cache.pods.get(key)
        finalizers = pod["metadata"].get("finalizers") if pod else None
        work = _call(_delete, wanted.client, POD.path(*key), body)
        # With finalizers it stays until others have let it go.
        wanted.writes.ask(("remove", "Pod", str(key)), (uid, str(finalizers)), work, lasting=bool(finalizers))


async def _delete(client: ApiClient, path: str, body: Json) -> None:
    with contextlib.suppress(_Gone):
        try:
            await client.delete(path, body)
        except ApiError as error:
            if error.is_not_found:
                raise _Gone from error
            raise


class _Gone(Exception):
    """Somebody else was faster."""


def _pod_statuses(wanted: Wanted) -> None:
    for key, placed in wanted.plan.running.items():
        pod = wanted.cache.pods.get(key)
        if pod is None or pod["metadata"]["uid"] != placed.uid or pod["metadata"].get("deletionTimestamp"):
            continue
        if (pod.get("status") or {}).get("phase") in TERMINAL_PHASES:
            continue  # the next plan is without it
        run = wanted.run_of(key, placed.uid) or pod_status.ALWAYS
        status = pod_status.pod_status(pod, placed, run, wanted.now)
        if pod_status.differs(pod.get("status"), status):
            _ask_status(wanted, "Pod", str(key), POD.path(*key), pod, status, run)


def _ask_status(
    wanted: Wanted, kind: str, name: str, path: str, data: Json, status: Json, basis: object, *, lasting: bool = False
) -> None:
    version = data["metadata"]["resourceVersion"]
    body = {"metadata": {"resourceVersion": version, "uid": data["metadata"]["uid"]}, "status": status}
    work = _call(wanted.client.patch, f"{path}/status", body, "merge", fieldManager=MANAGER)
    wanted.writes.ask(("status", kind, name), (version, basis), work, lasting=lasting)


def _nodes(wanted: Wanted) -> None:
    told = {p.key.name: p.words for p in wanted.plan.problems if p.kind == "Node"}
    for name, data in wanted.cache.nodes.items():
        if not wanted.cache.is_own(name) or not (name in wanted.plan.topology.nodes or name in told):
            continue
        path, version = NODE.path(name=name), data["metadata"]["resourceVersion"]
        status = pod_status.node_status(data, told.get(name, ""), wanted.now)
        if pod_status.differs(data.get("status"), status):
            _ask_status(wanted, "Node", name, path, data, status, told.get(name, ""), lasting=True)
        taints = (data.get("spec") or {}).get("taints") or []
        kept = [t for t in taints if t.get("key") != NOT_READY_TAINT]
        labels = pod_status.node_labels(data)
        if labels or (kept != taints and name not in told):
            body = {"metadata": {"resourceVersion": version, "labels": labels}, "spec": {"taints": kept or None}}
            work = _call(wanted.client.patch, path, body, "merge", fieldManager=MANAGER)
            wanted.writes.ask(("label", "Node", name), version, work, lasting=True)


def _workloads(wanted: Wanted) -> None:
    pods: dict[str, list[Json]] = {}
    for pod in wanted.cache.pods.values():
        if owner := controller_of(pod):
            pods.setdefault(owner["uid"], []).append(pod)
    for oid, data in wanted.cache.workloads.items():
        path, own = KINDS[oid.kind].path(oid.namespace, oid.name), pods.get(data["metadata"]["uid"], [])
        name = f"{oid.namespace}/{oid.name}"
        if data["metadata"].get("deletionTimestamp"):
            _let_go(wanted, oid, data, own)
            continue
        status = pod_status.workload_status(oid.kind, data, len(wanted.plan.wanted.get(oid, ())), own, wanted.now)
        if pod_status.differs(data.get("status"), status):
            _ask_status(wanted, oid.kind, name, path, data, status, len(own), lasting=True)


def _let_go(wanted: Wanted, oid: ObjectId, data: Json, own: list[Json]) -> None:
    """A workload that is deleted in the foreground goes when its pods are gone."""
    finalizers = data["metadata"].get("finalizers") or []
    if _FOREGROUND not in finalizers or own:
        return
    version = data["metadata"]["resourceVersion"]
    kept = [f for f in finalizers if f != _FOREGROUND]
    body = {"metadata": {"resourceVersion": version, "finalizers": kept or None}}
    work = _call(wanted.client.patch, KINDS[oid.kind].path(oid.namespace, oid.name), body, "merge", fieldManager=MANAGER)
    wanted.writes.ask(("release", oid.kind, f"{oid.namespace}/{oid.name}"), version, work)


def _events(wanted: Wanted) -> None:
    for problem in wanted.plan.problems:
        namespace = problem.key.namespace or "default"
        there = wanted.cache.namespaces.get(namespace)
        if there is not None and not there["metadata"].get("deletionTimestamp"):
            body = _event(problem, namespace, wanted.now)
            work = _call(_post_event, wanted.client, namespace, body)
            wanted.writes.ask(("event", problem.kind, body["metadata"]["name"]), "", work, lasting=True)


async def _post_event(client: ApiClient, namespace: str, body: Json) -> None:
    try:
        await client.create(EVENT.path(namespace), body)
    except ApiError as error:
        if not error.already_exists:  # it was told before
            raise


def _event(problem: Problem, namespace: str, now: str) -> Json:
    mark = hashlib.sha256(f"{problem.uid}\0{problem.words}".encode()).hexdigest()[:16]
    concerned = {
        "apiVersion": KINDS[problem.kind].api_version if problem.kind in KINDS else "v1",
        "kind": problem.kind,
        "namespace": problem.key.namespace,
        "name": problem.key.name,
        "uid": problem.uid,
    }
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"namespace": namespace, "name": f"{problem.key.name[:200]}.{mark}"},
        "involvedObject": concerned,
        "type": "Warning",
        "reason": "LabCannotRun",
        "message": problem.words,
        "source": {"component": MANAGER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _call(function: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: function(*arguments, **options)


__all__ = ["Wanted", "ask_for"]
