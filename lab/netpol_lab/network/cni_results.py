"""What libcni would have kept of each pod's network: the files in which an agent finds which interface is whose.

In: the pods of a node, and how they are wired. Out: one file for each, below the node's folder, whole by rename. Nothing of
the lab's own reads them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from netpol_lab.network.wiring import mac_of
from netpol_lab.topology.model import LabPod, NetworkKind

ROOT = Path("/run/cni")


def folder(node_netns: str) -> Path:
    """Where a node's results are; every node of a lab has its own, as every machine has its own /var/lib/cni/results."""
    return ROOT / node_netns


def keep(pod: LabPod, node_netns: str, kind: NetworkKind) -> None:
    """Write the pod's result."""
    path = _path(pod, node_netns)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(result(pod, kind)), encoding="ascii")
    os.replace(new, path)


def forget(pod: LabPod, node_netns: str) -> None:
    """Remove the pod's result, if it is there."""
    _path(pod, node_netns).unlink(missing_ok=True)


def result(pod: LabPod, kind: NetworkKind) -> dict[str, object]:
    """The content of a file, in the form of libcni's cachedInfo (cniCacheV1)."""
    sandbox = f"/run/netns/{pod.netns}"
    bridge = [] if kind is NetworkKind.ROUTED else [{"name": "cni0"}]
    interfaces = [*bridge, {"name": pod.device}, {"name": "eth0", "mac": mac_of(pod.addresses[0]), "sandbox": sandbox}]
    addresses = [{"interface": len(interfaces) - 1, "address": f"{a}/{a.family.bits}"} for a in pod.addresses]
    return {
        "kind": "cniCacheV1",
        "containerId": pod.netns,
        "ifName": "eth0",
        "networkName": "lab",
        "cniArgs": [["K8S_POD_NAMESPACE", pod.key.namespace], ["K8S_POD_NAME", pod.key.name]],
        "result": {"cniVersion": "1.0.0", "interfaces": interfaces, "ips": addresses},
    }


def _path(pod: LabPod, node_netns: str) -> Path:
    return folder(node_netns) / f"lab-{pod.netns}-eth0"
