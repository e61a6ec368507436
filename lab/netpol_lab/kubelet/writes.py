"""What the lab's kubelets and controllers write to the API server, worked out in each pass from what is and what should be.

In: a desired state whose network is there, and the cached objects. Out: requests, put into a `RequestQueue`. Every write says
which version or which uid of the object it means, so that one that comes late hits nobody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from netpol_api import resources
from netpol_compiler.model.objects import Key
from netpol_kube.client import ApiClient, ApiError
from netpol_lab.kubelet import pod_status
from netpol_lab.kubelet.desired_state import TERMINAL_PHASES, DesiredState, Json, ObjectProblem, controller_of
from netpol_lab.kubelet.informer_cache import PATHS, InformerCache
from netpol_lab.kubelet.pod_status import ProgramStatus
from netpol_lab.kubelet.work_queue import RequestQueue
from netpol_manifests.documents import USED_KINDS
from netpol_manifests.world import ObjectId

MANAGER = "npctl-lab"
NOT_READY_TAINT = "node.kubernetes.io/not-ready"
FOREGROUND_FINALIZER = "foregroundDeletion"


@dataclass(frozen=True, slots=True)
class WritePass:
    """What one pass works on. `status_of(key, uid)`: how a pod's program does, None where it has none. `now` is RFC 3339 text."""

    client: ApiClient
    queue: RequestQueue
    cache: InformerCache
    desired: DesiredState
    status_of: Callable[[Key, str], ProgramStatus | None]
    now: str


def request_all(this: WritePass) -> None:
    """Request every write that is still missing."""
    _pods_of_workloads(this)
    _bindings(this)
    _removals(this)
    _pod_statuses(this)
    _nodes(this)
    _workloads(this)
    _events(this)


def _path(kind: str, namespace: str, name: str = "") -> str:
    """The path of an object, or of its namespace's list."""
    root, _, plural = PATHS[kind].rpartition("/")
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{plural}{'/' + name if name else ''}"


def _pods_of_workloads(this: WritePass) -> None:
    for key, body in this.desired.create.items():
        basis = (body["metadata"]["ownerReferences"][0]["uid"], this.cache.deletions[key])
        this.queue.ask(("create", "Pod", str(key)), basis, _call(this.client.create, _path("Pod", key.namespace), body))
    for key, uid in this.desired.delete.items():
        body = {"preconditions": {"uid": uid}}
        this.queue.ask(("delete", "Pod", str(key)), uid, _call(this.client.delete, _path("Pod", *key), body))


def _bindings(this: WritePass) -> None:
    for key, (uid, node) in this.desired.bind.items():
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        work = _call(this.client.create, f"{_path('Pod', *key)}/binding", body)
        this.queue.ask(("bind", "Pod", str(key)), (uid, node), work)


def _removals(this: WritePass) -> None:
    """Deleted pods whose network is removed, and those that no node of the lab would end."""
    deleted = dict(this.desired.remove)
    deleted |= {key: s.uid for key, s in this.cache.foreign_pods.items() if s.deleted}
    for key, uid in deleted.items():
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        pod = this.cache.pods.get(key)
        finalizers = pod["metadata"].get("finalizers") if pod else None
        work = _call(_delete, this.client, _path("Pod", *key), body)
        # With finalizers it stays until others have taken theirs away.
        this.queue.ask(("remove", "Pod", str(key)), (uid, str(finalizers)), work, lasting=bool(finalizers))


async def _delete(client: ApiClient, path: str, body: Json) -> None:
    try:
        await client.delete(path, body)
    except ApiError as error:
        if not error.is_not_found:  # somebody else was faster
            raise


def _pod_statuses(this: WritePass) -> None:
    for key, placed in this.desired.running.items():
        pod = this.cache.pods.get(key)
        if pod is None or pod["metadata"]["uid"] != placed.uid or pod["metadata"].get("deletionTimestamp"):
            continue
        if (pod.get("status") or {}).get("phase") in TERMINAL_PHASES:
            continue  # the next desired state is without it
        program = this.status_of(key, placed.uid) or pod_status.ALWAYS_READY
        status = pod_status.pod_status(pod, placed, program, this.now)
        if pod_status.differs(pod.get("status"), status):
            _ask_status(this, "Pod", str(key), _path("Pod", *key), pod, status, program)


def _ask_status(
    this: WritePass, kind: str, name: str, path: str, data: Json, status: Json, basis: object, *, lasting: bool = False
) -> None:
    version = data["metadata"]["resourceVersion"]
    body = {"metadata": {"resourceVersion": version, "uid": data["metadata"]["uid"]}, "status": status}
    work = _call(this.client.patch, f"{path}/status", body, "merge", fieldManager=MANAGER)
    this.queue.ask(("status", kind, name), (version, basis), work, lasting=lasting)


def _nodes(this: WritePass) -> None:
    problems = {p.key.name: p.message for p in this.desired.problems if p.kind == "Node"}
    for name, data in this.cache.nodes.items():
        if not this.cache.is_own(name) or not (name in this.desired.topology.nodes or name in problems):
            continue
        path, version = _path("Node", "", name), data["metadata"]["resourceVersion"]
        status = pod_status.node_status(data, problems.get(name, ""), this.now)
        if pod_status.differs(data.get("status"), status):
            _ask_status(this, "Node", name, path, data, status, problems.get(name, ""), lasting=True)
        taints = (data.get("spec") or {}).get("taints") or []
        kept = [t for t in taints if t.get("key") != NOT_READY_TAINT]
        labels = pod_status.node_labels(data)
        if labels or (kept != taints and name not in problems):
            body = {"metadata": {"resourceVersion": version, "labels": labels}, "spec": {"taints": kept or None}}
            work = _call(this.client.patch, path, body, "merge", fieldManager=MANAGER)
            this.queue.ask(("label", "Node", name), version, work, lasting=True)


def _workloads(this: WritePass) -> None:
    pods: dict[str, list[Json]] = {}
    for pod in this.cache.pods.values():
        if owner := controller_of(pod):
            pods.setdefault(owner["uid"], []).append(pod)
    for oid, data in this.cache.workloads.items():
        path, own = _path(*oid), pods.get(data["metadata"]["uid"], [])
        name = f"{oid.namespace}/{oid.name}"
        if data["metadata"].get("deletionTimestamp"):
            _finish_deletion(this, oid, data, own)
            continue
        status = pod_status.workload_status(oid.kind, data, len(this.desired.wanted.get(oid, ())), own, this.now)
        if pod_status.differs(data.get("status"), status):
            _ask_status(this, oid.kind, name, path, data, status, len(own), lasting=True)


def _finish_deletion(this: WritePass, oid: ObjectId, data: Json, own: list[Json]) -> None:
    """A workload that is deleted in the foreground loses its finalizer when its pods are deleted."""
    finalizers = data["metadata"].get("finalizers") or []
    if FOREGROUND_FINALIZER not in finalizers or own:
        return
    version = data["metadata"]["resourceVersion"]
    kept = [f for f in finalizers if f != FOREGROUND_FINALIZER]
    body = {"metadata": {"resourceVersion": version, "finalizers": kept or None}}
    work = _call(this.client.patch, _path(*oid), body, "merge", fieldManager=MANAGER)
    this.queue.ask(("release", oid.kind, f"{oid.namespace}/{oid.name}"), version, work)


def _events(this: WritePass) -> None:
    for problem in this.desired.problems:
        namespace = problem.key.namespace or "default"
        there = this.cache.namespaces.get(namespace)
        if there is not None and not there["metadata"].get("deletionTimestamp"):
            body = _event(problem, namespace, this.now)
            work = _call(_post_event, this.client, namespace, body)
            this.queue.ask(("event", problem.kind, body["metadata"]["name"]), "", work, lasting=True)


async def _post_event(client: ApiClient, namespace: str, body: Json) -> None:
    try:
        await client.create(f"{resources.NAMESPACES}/{namespace}/events", body)
    except ApiError as error:
        if not error.already_exists:  # it was posted before
            raise


def _event(problem: ObjectProblem, namespace: str, now: str) -> Json:
    mark = hashlib.sha256(f"{problem.uid}\0{problem.message}".encode()).hexdigest()[:16]
    concerned = {
        "apiVersion": USED_KINDS.get(problem.kind, "v1"),
        "kind": problem.kind,
        "namespace": problem.key.namespace,
        "name": problem.key.name,
        "uid": problem.uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": f"{problem.key.name[:200]}.{mark}"},
        "involvedObject": concerned,
        "type": "Warning",
        "reason": "LabCannotRun",
        "message": problem.message,
        "source": {"component": MANAGER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _call(function: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: function(*arguments, **options)


__all__ = ["WritePass", "request_all"]
