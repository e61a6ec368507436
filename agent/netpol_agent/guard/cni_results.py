"""What the CNI plugins have made for each pod, from the files in which libcni keeps their results: interface, hardware
address, addresses.

libcni writes one file for each container's interface as soon as the plugins have succeeded, before the runtime starts any
program of the pod, and removes it when the network is taken down; containerd and CRI-O both call it. The files belong to
root, so a pod cannot forge them, as it can forge what it says on the wire. In: a folder, /var/lib/cni/results. Out:
`PodNetwork` values; what cannot be read is named. Source of the form: libcni's cachedInfo, version cniCacheV1, and the result
types of the CNI specification 0.3.0 to 1.1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.objects import Key

DEFAULT_FOLDER = Path("/var/lib/cni/results")
MOST_FILE_BYTES = 1 << 20
"""Of a result: the largest seen is 5 kB, most of it the plugins' configuration."""


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """One pod's network as CNI made it. `interfaces`: the node's ends of it, a bridge among them where there is one."""

    pod: Key
    uid: str
    interfaces: tuple[str, ...]
    hardware: bytes
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class CniResults:
    """All results of a folder, and what is wrong with others, in words. `readable`: whether the folder could be listed."""

    networks: tuple[PodNetwork, ...] = ()
    problems: tuple[str, ...] = ()
    readable: bool = True


def read_results(folder: Path) -> CniResults:
    """Every result in `folder`, the newest last. A folder that is not there is a problem, not an empty one."""
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        return CniResults((), (f"the CNI results in {folder} cannot be read: {error.strerror}",), readable=False)
    found, problems = [], []
    for path in paths:
        try:
            status = path.stat()
            if not S_ISREG(status.st_mode):
                continue
            if status.st_size > MOST_FILE_BYTES:
                raise ValueError(f"it is larger than {MOST_FILE_BYTES} bytes")
            network = parse_result(json.loads(path.read_bytes()))
        except FileNotFoundError:
            continue  # taken down between the list and the look
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"the CNI result {path.name} is not understood: {error}")
        else:
            if network is not None:
                found.append((status.st_mtime_ns, path.name, network))
    return CniResults(tuple(network for _, _, network in sorted(found, key=lambda one: one[:2])), tuple(sorted(problems)))


def parse_result(content: object) -> PodNetwork | None:
    """One file's content; None where it is of no pod, or of an interface beside the pod's first. Raises ValueError."""
    cached = _mapping(content, "the file")
    arguments = dict(_pairs(cached.get("cniArgs")))
    namespace, name = arguments.get("K8S_POD_NAMESPACE"), arguments.get("K8S_POD_NAME")
    if not namespace or not name or cached.get("ifName") != "eth0":
        return None
    result = _mapping(cached.get("result"), "result")
    interfaces = [_mapping(one, "an interface") for one in _sequence(result.get("interfaces"), "interfaces")]
    outside = tuple(_name(one) for one in interfaces if not one.get("sandbox"))
    inside = [one for one in interfaces if one.get("sandbox")]
    hardware = _hardware(inside[0].get("mac")) if inside else b""
    addresses = tuple(_address(_mapping(one, "an address")) for one in _sequence(result.get("ips"), "ips"))
    return PodNetwork(Key(namespace, name), arguments.get("K8S_POD_UID", ""), outside, hardware, addresses)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object")
    return value


def _sequence(value: object, what: str) -> list[object]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{what} is no list")
    return value or []


def _pairs(value: object) -> list[tuple[str, str]]:
    pairs = [one for one in _sequence(value, "cniArgs") if isinstance(one, list) and len(one) == 2]
    return [(name, text) for name, text in pairs if isinstance(name, str) and isinstance(text, str)]


def _name(one: Mapping[str, Any]) -> str:
    name = one.get("name")
    if not isinstance(name, str) or not 0 < len(name.encode()) < 16:
        raise ValueError(f"{name!r} is no interface's name")
    return name


def _hardware(value: object) -> bytes:
    try:
        hardware = bytes.fromhex(value.replace(":", "")) if isinstance(value, str) else b""
    except ValueError:
        hardware = b""
    if len(hardware) != 6:
        raise ValueError(f"{value!r} is no hardware address")
    return hardware


def _address(one: Mapping[str, Any]) -> Address:
    text = one.get("address")
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no address")
    return parse_address(text.partition("/")[0])
