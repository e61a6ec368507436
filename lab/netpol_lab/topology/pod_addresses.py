"""Which address a pod asks for, by annotation or by its status, in the families of the lab. Pure.

People write IPv4 addresses, as in the walkthrough. In a lab whose IPv6 blocks are the twins of IPv4 ones (`twins`), a pod that
asks for one gets its twin too, as in a lab without an API server.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_api.api_objects import Json
from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Node
from netpol_lab.errors import LabError
from netpol_lab.topology import world
from netpol_lab.topology.model import Families
from netpol_lab.topology.twins import twin_network
from netpol_manifests.placement import ADDRESS_ANNOTATION as CNI_ANNOTATION

ADDRESS_ANNOTATION = "lab.npctl.dev/ip"
"""On a pod: the address that it is to have (two with a comma between them where the lab has both families)."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """Reads wishes for one lab. `twinned`: its IPv6 blocks are the twins of its IPv4 ones, or of none."""

    families: Families
    twinned: bool

    @classmethod
    def of(cls, families: Families, nodes: Iterable[Node]) -> Wishes:
        """For a lab with these nodes."""
        return cls(families, Family.V6 in families.each and all(_is_twinned(n) for n in nodes))

    def addresses(self, pod: Mapping[str, Any]) -> tuple[Address, ...]:
        """What the pod asks for, none where it asks for nothing. Raises LabError for what is no address, or of no family here."""
        said = said_addresses(pod)
        usable = (
            world.in_families(said, self.families) if self.twinned else tuple(a for a in said if a.family in self.families.each)
        )
        if said and not usable:
            raise LabError(f"{said[0]} is of no family of this lab ({self.families.value})")
        for address in usable:
            if not is_plain(address):
                raise LabError(f"{address} cannot be a pod's address")
        return usable

    def in_template(self, workload: Json) -> Json:
        """The workload, whose template asks for addresses of this lab's families; unchanged where it need not be."""
        template = ((workload.get("spec") or {}).get("template")) or {}
        if not self.twinned or not ((template.get("metadata") or {}).get("annotations")):
            return workload
        try:
            addresses = self.addresses(template)
        except LabError:
            return workload  # told of the pods that are made from it
        if not addresses:
            return workload
        return {**workload, "spec": {**workload["spec"], "template": with_wish(template, addresses)}}


def is_asking(pod: Mapping[str, Any]) -> bool:
    """Whether an annotation of the pod says an address."""
    return bool({ADDRESS_ANNOTATION, CNI_ANNOTATION} & set(pod["metadata"].get("annotations") or ()))


def said_addresses(pod: Mapping[str, Any]) -> tuple[Address, ...]:
    """What annotation or status say about the pod's addresses. Raises LabError where that is none."""
    annotations = pod["metadata"].get("annotations") or {}
    where, written = ADDRESS_ANNOTATION, str(annotations.get(ADDRESS_ANNOTATION) or "").replace(",", " ").split()
    if not written and (text := annotations.get(CNI_ANNOTATION)):
        where, written = CNI_ANNOTATION, _listed(str(text))
    if not written:
        where, written = "status.podIPs", [str(item.get("ip")) for item in (pod.get("status") or {}).get("podIPs") or ()]
    try:
        return tuple(dict.fromkeys(parse_address(text) for text in written))
    except ValueError as error:
        raise LabError(f"{where}: {error}") from None


def with_wish(pod: Mapping[str, Any], addresses: tuple[Address, ...]) -> Json:
    """The pod (or template) with its wish in the one form that the expansion reads."""
    annotations = {k: v for k, v in (pod["metadata"].get("annotations") or {}).items() if k != CNI_ANNOTATION}
    if addresses:
        annotations[CNI_ANNOTATION] = json.dumps([a.text for a in addresses])
    return {**pod, "metadata": {**pod["metadata"], "annotations": annotations}}


def is_plain(address: Address) -> bool:
    """Whether a machine may have it as its own."""
    value = ipaddress.ip_address(address.text)
    return not (value.is_multicast or value.is_loopback or value.is_unspecified or value.is_link_local or value.is_reserved)


def is_reserved(address: Address, node: Node) -> bool:
    """Whether it is the network's, the gateway's or the broadcast address of one of the node's blocks."""
    for block in node.pod_cidrs:
        if block.contains(address):
            return address.value in (block.value, block.value + 1) or (block.version == 4 and address.value == block.last)
    return False


def _listed(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise LabError(f'annotation {CNI_ANNOTATION} must be a JSON list of addresses, such as ["10.0.0.7"], not {text!r}')
    return [str(item) for item in value]


def _is_twinned(node: Node) -> bool:
    plain = [c for c in node.pod_cidrs if c.version == 4]
    try:
        return not plain or {twin_network(c) for c in plain} == {c for c in node.pod_cidrs if c.version == 6}
    except ValueError:
        return False


__all__ = ["ADDRESS_ANNOTATION", "Wishes"]
