"""What the lab should run, and what that is worked out from: the values between the informer cache, the planner and the kubelets.

    ObservedObjects, the last DesiredState, PlanContext --planner.plan--> DesiredState

Beside them stand the questions about one object that more than the planner asks. Values only: no requests, no clocks, no network.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import Key
from netpol_lab.topology.model import Families, LabNode, Topology
from netpol_manifests.pod_templates import WORKLOADS, digest
from netpol_manifests.world import ObjectId

Json = dict[str, Any]

ELSEWHERE_ANNOTATION = "lab.npctl.dev/elsewhere"
"""On a node, with any value: the lab leaves it and its pods alone, since a test plays them."""
TEMPLATE_ANNOTATION = "lab.npctl.dev/template"
"""On a pod that the lab made for a workload: a hash of the template that it was made from."""
TERMINAL_PHASES = ("Succeeded", "Failed")
"""Phases of pods that have ended by themselves: they have no network any more."""


@dataclass(frozen=True, slots=True)
class ObservedObjects:
    """What the API server holds. `foreign_pods`: pods of nodes that are not the lab's; only their names matter."""

    nodes: Mapping[str, Json] = field(default_factory=dict)
    namespaces: Mapping[str, Json] = field(default_factory=dict)
    services: Mapping[Key, Json] = field(default_factory=dict)
    workloads: Mapping[ObjectId, Json] = field(default_factory=dict)
    pods: Mapping[Key, Json] = field(default_factory=dict)
    foreign_pods: Container[Key] = frozenset()


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What the objects do not say. `ending`: uids of pods that are deleted, but whose program still runs.

    `refused`: uids of pods and nodes that could not be built, with the reason. `api`: where the API server is, inside the lab.
    """

    families: Families = Families.IPV4
    ending: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    api: tuple[Address, int] | None = None


@dataclass(frozen=True, slots=True)
class PlacedPod:
    """A pod that runs, or is to run as soon as the network is there."""

    uid: str
    node: LabNode
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class ObjectProblem:
    """Something about one object that the lab cannot do."""

    kind: str
    key: Key
    uid: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind} {self.key if self.key.namespace else self.key.name}: {self.message}"


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What the lab should run, and what is still to be done for it. uids say which object of that name is meant.

    create  pods of workloads, as they are posted        bind     unscheduled pods, with their node
    delete  pods that no workload wants any more         remove   deleted pods that nothing is left of
    given   addresses that are taken, also those of pods that are still to be created (then the uid is empty)
    """

    topology: Topology = field(default_factory=Topology)
    running: Mapping[Key, PlacedPod] = field(default_factory=dict)
    create: Mapping[Key, Json] = field(default_factory=dict)
    bind: Mapping[Key, tuple[str, str]] = field(default_factory=dict)
    delete: Mapping[Key, str] = field(default_factory=dict)
    remove: Mapping[Key, str] = field(default_factory=dict)
    wanted: Mapping[ObjectId, tuple[Key, ...]] = field(default_factory=dict)
    problems: tuple[ObjectProblem, ...] = ()
    given: Mapping[Key, tuple[Address, ...]] = field(default_factory=dict)
    uids: Mapping[Key, str] = field(default_factory=dict)


def is_elsewhere(node: Json) -> bool:
    """Whether the lab leaves this node alone."""
    return ELSEWHERE_ANNOTATION in (node["metadata"].get("annotations") or {})


def template_hash(workload: Json) -> str:
    """A hash of the workload's pod template."""
    return digest(json.dumps((workload.get("spec") or {}).get("template"), sort_keys=True), length=10)


def controller_of(pod: Json) -> Json | None:
    """The pod's owner, if that is a workload of a kind that the lab knows."""
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") in WORKLOADS:
            group = str(reference.get("apiVersion")).partition("/")[0]
            return dict(reference) if group in ("apps", "batch") else None
    return None


def uid_of(data: Json) -> str:
    return str(data["metadata"].get("uid") or "")


def annotation_of(data: Json, name: str) -> str:
    return str((data["metadata"].get("annotations") or {}).get(name) or "")


__all__ = [
    "TEMPLATE_ANNOTATION",
    "TERMINAL_PHASES",
    "DesiredState",
    "Json",
    "ObjectProblem",
    "ObservedObjects",
    "PlacedPod",
    "PlanContext",
    "annotation_of",
    "controller_of",
    "is_elsewhere",
    "template_hash",
    "uid_of",
]
