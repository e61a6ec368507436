"""The statuses that kubelets and workload controllers write, as documents: of pods, nodes and workloads. Pure.

In: an object as the API server has it, and what is the case. Out: its status as it should be, equal to the present one where
nothing has changed, so that nothing is written twice. Times are RFC 3339 text, given by the caller.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_lab.kubelet.desired_state import PlacedPod

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """How a pod's program does. `exit_code`: of its last end; `ended`: it is not started again; `message`: why it waits."""

    running: bool
    ready: bool
    restarts: int = 0
    exit_code: int | None = None
    ended: bool = False
    message: str = ""


ALWAYS_READY = ProgramStatus(running=True, ready=True)
"""How a pod without a program of its own does: the lab listens for it."""


def pod_status(pod: Json, placed: PlacedPod, program: ProgramStatus, now: str) -> Json:
    """The status of a pod that is placed and whose network is there."""
    current = pod.get("status") or {}
    addresses, hosts = placed.addresses, placed.node.addresses
    over = ("Succeeded" if program.exit_code == 0 else "Failed") if program.ended else ""
    ready = program.ready and not over
    reason = {} if ready else {"reason": "PodCompleted" if over == "Succeeded" else "ContainersNotReady"}
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "PodReadyToStartContainers", "status": "True"},
        {"type": "Initialized", "status": "True"},
        {"type": "ContainersReady", "status": str(ready), **reason},
        {"type": "Ready", "status": str(ready), **reason},
    ]
    return {
        "phase": over or "Running",
        "hostIP": hosts[0].text,
        "hostIPs": [{"ip": a.text} for a in hosts],
        "podIP": addresses[0].text,
        "podIPs": [{"ip": a.text} for a in addresses],
        "startTime": current.get("startTime") or now,
        "conditions": _merged_conditions(current.get("conditions") or (), conditions, now),
        "containerStatuses": [_container(c, pod, program, now) for c in pod["spec"].get("containers") or ()],
    }


def _container(container: Json, pod: Json, program: ProgramStatus, now: str) -> Json:
    earlier = _named((pod.get("status") or {}).get("containerStatuses"), container["name"])
    status: Json = {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "containerID": f"lab://{pod['metadata']['uid']}/{container['name']}",
        "ready": program.ready,
        "started": program.running,
        "restartCount": program.restarts,
        "state": _state(program, earlier, now),
    }
    if program.exit_code is not None and not program.ended:
        status["lastState"] = _kept(
            earlier.get("lastState"), "terminated", {"exitCode": program.exit_code, "reason": "Error"}, now
        )
    return status


def _state(program: ProgramStatus, earlier: Json, now: str) -> Json:
    if program.ended:
        reason = "Completed" if program.exit_code == 0 else "Error"
        return _kept(earlier.get("state"), "terminated", {"exitCode": program.exit_code, "reason": reason}, now)
    if not program.running:
        reason = (
            "CreateContainerConfigError" if program.message else "CrashLoopBackOff" if program.restarts else "ContainerCreating"
        )
        return {"waiting": {"reason": reason, **({"message": program.message} if program.message else {})}}
    state = (earlier.get("state") or {}).get("running")
    same = state and earlier.get("restartCount") == program.restarts
    return {"running": {"startedAt": state["startedAt"] if same and state else now}}


def _kept(earlier: Json | None, kind: str, facts: Json, now: str) -> Json:
    """A terminated state with its time; the earlier one where the facts are the same."""
    before = (earlier or {}).get(kind) or {}
    if {k: before.get(k) for k in facts} == facts:
        return {kind: before}
    return {kind: {**facts, "finishedAt": now, "startedAt": None}}


def _named(items: Iterable[Json] | None, name: str) -> Json:
    return next((i for i in items or () if i.get("name") == name), {})


def _merged_conditions(current: Iterable[Json], wanted: Iterable[Json], now: str) -> list[Json]:
    """Conditions as wanted; those that stay as they are keep their times, and others' conditions stay."""
    before = {c["type"]: c for c in current}
    mine = {w["type"]: w for w in wanted}
    merged = []
    for kind, condition in mine.items():
        old = before.get(kind, {})
        same = all(old.get(k) == v for k, v in condition.items()) and ("reason" in old) == ("reason" in condition)
        merged.append(old if same else {**condition, "lastProbeTime": None, "lastTransitionTime": now})
    return merged + [c for kind, c in before.items() if kind not in mine]


def node_labels(node: Json) -> dict[str, str]:
    """The labels that a kubelet gives to its node, without those that are there already."""
    own = {"kubernetes.io/hostname": node["metadata"]["name"], "kubernetes.io/os": "linux", "kubernetes.io/arch": _architecture()}
    there = node["metadata"].get("labels") or {}
    return {k: v for k, v in own.items() if k not in there}


def node_status(node: Json, problem: str, now: str) -> Json:
    """The status of one of the lab's nodes; with a `problem` it is not ready."""
    current = node.get("status") or {}
    ready = {
        "type": "Ready",
        "status": "False" if problem else "True",
        "reason": "KubeletNotReady" if problem else "KubeletReady",
    }
    ready["message"] = problem or "the lab runs its pods"
    conditions = [
        {k: v for k, v in c.items() if k != "lastProbeTime"}
        for c in _merged_conditions(current.get("conditions") or (), [ready], now)
    ]
    for condition in conditions:
        condition.setdefault("lastHeartbeatTime", now)
    room = {"cpu": str(os.cpu_count() or 1), "memory": "1Gi", "pods": "500"}
    machine = {
        "architecture": _architecture(),
        "operatingSystem": "linux",
        "kernelVersion": os.uname().release,
        "osImage": "npctl lab",
        "kubeletVersion": "npctl-lab",
        "containerRuntimeVersion": "npctl-lab://1",
    }
    known = current.get("nodeInfo") or {}
    return {
        "conditions": conditions,
        "capacity": current.get("capacity") or room,
        "allocatable": current.get("allocatable") or room,
        "nodeInfo": {**known, **machine},
    }


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def workload_status(kind: str, workload: Json, wanted: int, pods: Iterable[Json], now: str) -> Json:
    """The status of a workload that wants that many pods and has these."""
    current = workload.get("status") or {}
    there = [p for p in pods if not p["metadata"].get("deletionTimestamp")]
    total, ready = len(there), sum(1 for p in there if is_ready(p))
    generation = workload["metadata"].get("generation", 1)
    if kind == "DaemonSet":
        return {
            "observedGeneration": generation,
            "desiredNumberScheduled": wanted,
            "currentNumberScheduled": total,
            "updatedNumberScheduled": total,
            "numberReady": ready,
            "numberAvailable": ready,
            "numberUnavailable": wanted - ready,
            "numberMisscheduled": 0,
        }
    if kind == "Job":
        phases = [(p.get("status") or {}).get("phase") for p in there]
        done, failed = phases.count("Succeeded"), phases.count("Failed")
        active = total - done - failed
        began = current.get("startTime") or now
        return {"startTime": began, "active": active, "ready": min(ready, active), "succeeded": done, "failed": failed}
    status: Json = {"observedGeneration": generation, "replicas": total, "readyReplicas": ready, "availableReplicas": ready}
    if kind == "Deployment":
        complete = ready >= wanted
        conditions = [
            {"type": "Available", "status": str(complete), "reason": f"MinimumReplicas{'A' if complete else 'Una'}vailable"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated"},
        ]
        merged = _merged_conditions(current.get("conditions") or (), conditions, now)
        status |= {
            "updatedReplicas": total,
            "unavailableReplicas": max(wanted - ready, 0),
            "conditions": [{k: v for k, v in c.items() if k != "lastProbeTime"} for c in merged],
        }
    elif kind == "StatefulSet":
        status |= {"currentReplicas": total, "updatedReplicas": total}
    elif kind == "ReplicaSet":
        status |= {"fullyLabeledReplicas": total}
    return status


def is_ready(pod: Json) -> bool:
    """Whether the pod's own condition says so."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in (pod.get("status") or {}).get("conditions") or ())


def differs(current: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether writing `wanted` over `current` (a JSON merge patch) changes anything; a zero is what is not there."""
    present = current or {}
    return any(not _same(present.get(key), value) for key, value in wanted.items())


def _same(current: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return not differs(current, wanted) if isinstance(current, Mapping) or not current else False
    if isinstance(wanted, list):
        return isinstance(current, list) and len(current) == len(wanted) and all(map(_same, current, wanted))
    return bool(current == wanted) or (not current and not wanted)


__all__ = ["ALWAYS_READY", "ProgramStatus", "differs", "is_ready", "node_labels", "node_status", "pod_status", "workload_status"]
