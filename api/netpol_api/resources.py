"""npctl's custom resources: their names and paths, and the way between them and the IR's wire form.

    AddressSet       /apis/npctl.dev/v1alpha1/addresssets/SETNAME.SLICE             one slice of one set
    CompiledPolicy   /apis/npctl.dev/v1alpha1/namespaces/NS/compiledpolicies/NAME   one for each NetworkPolicy
    NodeReport       /apis/npctl.dev/v1alpha1/nodereports/NODE                      what is in force on one node

The wire form is the object's `spec`; what stands beside it here is for people, for watches and for waiting, and no reader of
the IR needs it. Pure: no I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import CompiledPolicy
from netpol_compiler.policy.slices import slice_name

Json = dict[str, Any]

GROUP, VERSION = "npctl.dev", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
_ROOT = f"/apis/{GROUP}/{VERSION}"
ADDRESS_SETS = f"{_ROOT}/addresssets"
COMPILED_POLICIES = f"{_ROOT}/compiledpolicies"
NODE_REPORTS = f"{_ROOT}/nodereports"
PODS = "/api/v1/pods"
NODES = "/api/v1/nodes"
NAMESPACES = "/api/v1/namespaces"
NETWORK_POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"

NODE_REPORT_SCHEMA = 1
"""The schema of a NodeReport's status. A number of its own: reports stay readable when the IR's (wire.SCHEMA) rises."""

SET_LABEL = f"{GROUP}/set"
SPAN_PREFIX = f"span.{GROUP}/b"
_LONGEST_VERSION = 20
BUCKETS = 256
"""Buckets of nodes: an object's labels stay bounded however many nodes there are."""


# -- spans ---------------------------------------------------------------------------------------------


def bucket(node: str) -> int:
    """The bucket of a node, 0 to 255: a hash of its name, equal in every process."""
    return hashlib.sha256(node.encode()).digest()[0]


def span_label(number: int) -> str:
    """The label that an object has when a node of bucket `number` needs it; an agent's watch selects it."""
    return f"{SPAN_PREFIX}{number}"


def span_labels(buckets: Iterable[int]) -> dict[str, str]:
    return {span_label(number): "" for number in sorted(set(buckets))}


def span_of(labels: Mapping[str, str]) -> frozenset[int]:
    """The buckets that an object's labels name."""
    numbers = (label.removeprefix(SPAN_PREFIX) for label in labels if label.startswith(SPAN_PREFIX))
    return frozenset(int(n) for n in numbers if n.isascii() and n.isdigit() and len(n) <= len(str(BUCKETS)))


def version_number(text: object) -> int:
    """A resourceVersion, which the API promises to be comparable as a number (KEP-5504); 0 for what is none."""
    if not isinstance(text, str) or len(text) > _LONGEST_VERSION or not (text.isascii() and text.isdigit()):
        return 0
    return int(text)


# -- paths ---------------------------------------------------------------------------------------------


def address_set_path(name: str, index: int) -> str:
    return f"{ADDRESS_SETS}/{address_set_object_name(name, index)}"


def address_set_object_name(name: str, index: int) -> str:
    return slice_name(name, index)


def compiled_policies_path(namespace: str) -> str:
    return f"{_ROOT}/namespaces/{namespace}/compiledpolicies"


def compiled_policy_path(key: Key) -> str:
    return f"{compiled_policies_path(key.namespace)}/{key.name}"


def node_report_path(node: str) -> str:
    return f"{NODE_REPORTS}/{node}"


# -- objects -------------------------------------------------------------------------------------------


def address_set_object(document: wire.Json, buckets: Iterable[int]) -> Json:
    """An AddressSet from one slice's wire form (wire.slice_to_wire)."""
    return {
        "apiVersion": API_VERSION,
        "kind": "AddressSet",
        "metadata": {
            "name": address_set_object_name(document["name"], document["slice"]),
            "labels": {SET_LABEL: document["name"], **span_labels(buckets)},
        },
        "spec": document,
    }


def compiled_policy_object(policy: CompiledPolicy, generation: int, needs: Mapping[str, str]) -> Json:
    """A CompiledPolicy. `generation` is the NetworkPolicy's; `needs` says how new each set must be (its resourceVersion).

    Not owned by the NetworkPolicy: the garbage collector would remove it before the operator has published what comes instead.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": "CompiledPolicy",
        "metadata": {"namespace": policy.key.namespace, "name": policy.key.name},
        "spec": {
            **wire.policy_to_wire(policy),
            "sourceGeneration": generation,
            "needs": dict(sorted(needs.items())),
            "isolates": ",".join(d.api_name for d in Direction if d in policy.directions),
            "ruleCount": len(policy.rules),
        },
    }


def document_of(data: Mapping[str, Any]) -> wire.Json:
    """The wire form in an AddressSet or CompiledPolicy. Raises WireError when its schema is not ours, or it is no object."""
    spec = data.get("spec")
    if not isinstance(spec, dict):
        raise wire.WireError("no spec")
    return wire.checked(spec)
