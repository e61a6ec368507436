"""Services: what a lab must program, and which pods a connection to one really reaches.

In: a Service as a mapping; pods. Out: frozen `Service` values, and the endpoints of each port. Policies never see a
Service: they apply after its translation, to the pod reached (SEMANTICS 11). Excluded: giving out addresses (`workloads`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.kinds import Family, Protocol
from netpol_compiler.model.objects import Key, Pod, Rejected
from netpol_compiler.model.selectors import Selector, label_selector
from netpol_compiler.reading.fields import Path, Problems, describe, port_name_error, read_labels, read_protocol
from netpol_compiler.reading.metadata import read_metadata

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
HEADLESS = "None"


class ServicePort(NamedTuple):
    """One port. `target_port` is a number, or a name that each pod resolves; `node_port` 0: none."""

    name: str
    protocol: Protocol
    port: int
    target_port: int | str
    node_port: int = 0


class ServiceEndpoint(NamedTuple):
    """One place that a Service's port leads to."""

    pod: Key
    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Service:
    """One Service. `selector` None: it selects no pods by itself. `families`: as wished by ipFamilies, may be empty."""

    key: Key
    type: str
    cluster_ips: tuple[Address, ...]
    ports: tuple[ServicePort, ...]
    selector: Selector | None
    headless: bool = False
    external_traffic_policy: str = "Cluster"
    families: tuple[Family, ...] = ()
    dual_stack: bool = False

    @property
    def has_node_ports(self) -> bool:
        return self.type in ("NodePort", "LoadBalancer")


def parse_service(data: Mapping[str, Any]) -> tuple[Service | None, tuple[Rejected, ...]]:
    """Parse one Service. None only when its name or namespace is unusable; a port that is not understood is left out."""
    metadata, problems = read_metadata(data, "Service")
    spec = problems.mapping(data.get("spec"), ("spec",)) or {}
    addresses, headless = _read_cluster_ips(spec, problems)
    items = problems.sequence(spec.get("ports"), ("spec", "ports")) or ()
    ports = [_read_port(item, ("spec", "ports", index), problems) for index, item in enumerate(items)]
    known = tuple(port for port in ports if port is not None)
    _check_ports(known, problems)
    labels = read_labels(spec.get("selector"), ("spec", "selector"), problems)
    family_policy = _choice(spec, "ipFamilyPolicy", ("SingleStack", "PreferDualStack", "RequireDualStack"), problems)
    _choice(spec, "internalTrafficPolicy", ("Cluster", "Local"), problems)  # only whether the API would take it
    service = Service(
        key=metadata.key,
        type=_choice(spec, "type", TYPES, problems),
        cluster_ips=addresses,
        ports=known,
        selector=label_selector(**labels) if labels else None,
        headless=headless,
        external_traffic_policy=_choice(spec, "externalTrafficPolicy", ("Cluster", "Local"), problems),
        families=_read_families(spec, problems),
        dual_stack=family_policy != "SingleStack",
    )
    return service if metadata.usable else None, tuple(problems.found)


def endpoints(service: Service, pods: Iterable[Pod]) -> dict[ServicePort, tuple[ServiceEndpoint, ...]]:
    """Where each port of `service` leads, sorted. Pods without the port's name (for its protocol) are not among them.

    Also hostNetwork pods are endpoints: a Service leads to them although no policy selects them.
    """
    if service.selector is None or service.type == "ExternalName":
        return dict.fromkeys(service.ports, ())
    running = (p for p in pods if p.key.namespace == service.key.namespace and p.phase == "Running")
    chosen = [p for p in running if service.selector.matches(p.labels)]
    return {port: tuple(sorted(e for pod in chosen for e in _endpoints_of(port, pod))) for port in service.ports}


def _endpoints_of(port: ServicePort, pod: Pod) -> list[ServiceEndpoint]:
    target = port.target_port
    # A Service's port leads to one port of a pod: where a pod has the name twice, to the first.
    numbers = pod.named_port(target, port.protocol)[:1] if isinstance(target, str) else (target,)
    return [ServiceEndpoint(pod.key, address, number) for number in numbers for address in pod.addresses]


def _choice(spec: Mapping[str, Any], field: str, allowed: tuple[str, ...], problems: Problems) -> str:
    """The value of `field`; the first of `allowed` is its default."""
    value = spec.get(field)
    if value is None or value == "":
        return allowed[0]
    if isinstance(value, str) and value in allowed:
        return value
    problems.add(("spec", field), f"expected one of {', '.join(allowed)}, got {describe(value)}")
    return allowed[0]


def _read_cluster_ips(spec: Mapping[str, Any], problems: Problems) -> tuple[tuple[Address, ...], bool]:
    items = problems.sequence(spec.get("clusterIPs"), ("spec", "clusterIPs")) or []
    texts: list[tuple[Path, object]] = [(("spec", "clusterIPs", index), item) for index, item in enumerate(items)]
    if not texts and spec.get("clusterIP"):
        texts = [(("spec", "clusterIP"), spec["clusterIP"])]
    found: list[Address] = []
    for path, value in texts:
        if value == HEADLESS:
            return (), True
        text = problems.text(value, path)
        try:
            found += [parse_address(text)] if text else []
        except ValueError as error:
            problems.add(path, str(error))
    return tuple(dict.fromkeys(found)), False


def _read_families(spec: Mapping[str, Any], problems: Problems) -> tuple[Family, ...]:
    names = {"IPv4": Family.V4, "IPv6": Family.V6}
    found: list[Family] = []
    for index, item in enumerate(problems.sequence(spec.get("ipFamilies"), ("spec", "ipFamilies")) or ()):
        if isinstance(item, str) and item in names:
            found.append(names[item])
        else:
            problems.add(("spec", "ipFamilies", index), f"expected IPv4 or IPv6, got {describe(item)}")
    return tuple(dict.fromkeys(found))


def _read_port(value: object, path: Path, problems: Problems) -> ServicePort | None:
    data = problems.mapping(value, path)
    if data is None:
        return None
    name = data.get("name")
    text = "" if name is None or name == "" else problems.text(name, (*path, "name")) or ""
    protocol = read_protocol(data.get("protocol"), (*path, "protocol"), problems)
    number = problems.integer(data.get("port"), (*path, "port"), 1, 65535)
    node_port = data.get("nodePort")
    node_number = problems.integer(node_port, (*path, "nodePort"), 1, 65535) if node_port else 0
    target = data.get("targetPort")
    where = (*path, "targetPort")
    if isinstance(target, str) and target:
        error = port_name_error(target)
        if error:
            problems.add(where, error)
        checked: int | str | None = None if error else target
    else:
        checked = number if target in (None, 0, "") else problems.integer(target, where, 1, 65535)
    if protocol is None or number is None or checked is None or node_number is None:
        return None
    return ServicePort(text, protocol, number, checked, node_number)


def _check_ports(ports: tuple[ServicePort, ...], problems: Problems) -> None:
    seen: set[tuple[Protocol, int]] = set()
    for port in ports:
        if (port.protocol, port.port) in seen:
            problems.add(("spec", "ports"), f"port {port.port}/{port.protocol.value} is there twice")
        if len(ports) > 1 and not port.name:
            problems.add(("spec", "ports"), f"port {port.port} needs a name, because there are several")
        seen.add((port.protocol, port.port))
