"""The pod networks that a real cluster can have, by name. Each kind has a module of its own, which says what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from netpol_realcluster.networks import bird, flannel, static
from netpol_realcluster.networks.pod_network import PodNetwork

NETWORKS: Mapping[str, Callable[[], PodNetwork]] = {
    **{f"flannel-{backend}": partial(flannel.Flannel, backend) for backend in flannel.BACKENDS},
    "bridge-static": static.BridgeStatic,
    "ptp-static": static.PtpStatic,
    "vxlan-static": static.VxlanStatic,
    "bird-mesh": bird.Mesh,
    "bird-reflector": bird.Reflector,
}
DEFAULT = "flannel-vxlan"
