"""Documents to a complete world: what a cluster's control plane would make of the manifests.

    documents ──▶ newest of each object ──▶ nodes completed or invented
                                        ──▶ workloads ──templates──▶ pods ──placement──▶ scheduled, with addresses
                                        ──▶ Services with cluster addresses and node ports
                                        ──▶ namespaces (also those only mentioned), policies

In: `Document`s. Out: a frozen `World` with parsed values, the completed objects as mappings (for a lab to write down),
and everything that was rejected, with file and line. Pure and deterministic: the same documents give the same world.

Where no Node is given (a folder of only policies and pods) nodes are invented: one for each spec.nodeName mentioned, or
one named "node"; pods then get addresses from 10.244.0.0/16, nodes from 192.0.2.0/24 (a range for documentation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from netpol_api import kinds
from netpol_compiler.model.addresses import Address, Network, parse_network
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import NAMESPACE_NAME_LABEL, Cluster, Key, Labels, Namespace, Node, Pod, Policy, Rejected
from netpol_compiler.reading.fields import Problems, as_mapping
from netpol_compiler.reading.metadata import DEFAULT_NAMESPACE, read_metadata
from netpol_compiler.reading.objects import HOSTNAME_LABEL, locate, parse_namespace, parse_node, parse_pod, parse_policy
from netpol_manifests.documents import Document, Use, classify
from netpol_manifests.placement import Placement, complete_nodes, complete_services
from netpol_manifests.pod_templates import WORKLOADS, expand_workload, uid_of
from netpol_manifests.services import Service, parse_service

CLUSTER_KINDS = tuple(kind.kind for kind in kinds.USED if not kind.namespaced)
INVENTED_NODE = "node"
T = TypeVar("T")


class ObjectId(NamedTuple):
    """Identity of an object; `namespace` is empty for Node and Namespace."""

    kind: str
    namespace: str
    name: str


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(parse_network(text)[0] for text in texts)


@dataclass(frozen=True, slots=True)
class ExpandOptions:
    """Where addresses come from that nobody wrote down. `families` None: those that the nodes have, else IPv4."""

    families: tuple[Family, ...] | None = None
    pod_cidrs: tuple[Network, ...] = _networks("10.244.0.0/16", "fd00:10:244::/48")
    node_cidrs: tuple[Network, ...] = _networks("192.0.2.0/24", "fd00:192:0:2::/64")
    service_cidrs: tuple[Network, ...] = _networks("10.96.0.0/16", "fd00:10:96::/112")


@dataclass(frozen=True, slots=True)
class World:
    """Everything that the manifests say, completed.

    objects    every object as a mapping, completed as the API server would hold it, workloads and their pods included
    documents  where each object came from; a workload's pods came from the workload's document
    rejected   what was not understood, with file and line; warnings: legal, but probably not meant
    skipped    documents of kinds that cannot change an answer, counted by kind
    """

    nodes: Mapping[str, Node]
    namespaces: Mapping[str, Namespace]
    pods: Mapping[Key, Pod]
    services: Mapping[Key, Service]
    policies: Mapping[Key, Policy]
    objects: Mapping[ObjectId, Mapping[str, Any]]
    documents: Mapping[ObjectId, Document]
    rejected: tuple[Rejected, ...] = ()
    warnings: tuple[Rejected, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


def expand(
    documents: Iterable[Document],
    previous: Mapping[Key, tuple[Address, ...]] | None = None,
    options: ExpandOptions | None = None,
    previous_services: Mapping[Key, tuple[Address, ...]] | None = None,
) -> World:
    """Expand documents to a world. `previous`: addresses that pods (and Services) had, to be kept where that is possible.

    The same object twice: the later one counts, as with `kubectl apply`, and a warning says so.
    """
    expansion = _Expansion(options or ExpandOptions())
    expansion.collect(documents)
    expansion.make_nodes()
    expansion.make_pods(previous or {})
    expansion.make_services(previous_services or {})
    expansion.make_policies()
    expansion.make_namespaces()
    return expansion.world()


def to_cluster(world: World) -> Cluster:
    """The compiler's and the oracle's input."""
    return Cluster(world.namespaces, world.pods, world.policies, world.nodes)


@dataclass(slots=True)
class _Draft:
    """A pod on its way: its mapping, its origin, and its place among its workload's pods."""

    data: Mapping[str, Any]
    document: Document
    group: str
    index: int
    from_template: bool


class _Expansion:
    """The steps of `expand`, in their order; each fills its part of the world."""

    def __init__(self, options: ExpandOptions) -> None:
        self._options = options
        self._documents: dict[ObjectId, Document] = {}
        self._objects: dict[ObjectId, Mapping[str, Any]] = {}
        self._rejected: list[Rejected] = []
        self._told: set[Rejected] = set()
        self._warnings: list[Rejected] = []
        self._skipped: dict[str, int] = {}
        self._nodes: dict[str, Node] = {}
        self._pods: dict[Key, Pod] = {}
        self._services: dict[Key, Service] = {}
        self._policies: dict[Key, Policy] = {}
        self._namespaces: dict[str, Namespace] = {}

    def world(self) -> World:
        return World(
            nodes=self._nodes, namespaces=self._namespaces, pods=self._pods, services=self._services, policies=self._policies,
            objects=self._objects, documents=self._documents, rejected=tuple(self._rejected), warnings=tuple(self._warnings),
            skipped=self._skipped,
        )  # fmt: skip

    def collect(self, documents: Iterable[Document]) -> None:
        for document in documents:
            use = classify(document)
            if isinstance(use, Rejected):
                self._rejected.append(use)
            elif use is Use.SKIPPED:
                self._skipped[document.kind] = self._skipped.get(document.kind, 0) + 1
            else:
                self._add(document)

    def make_nodes(self) -> None:
        written = [node for node in (self._parse(oid, parse_node) for oid in self._of("Node")) if node]
        if not written:
            written = self._invented_nodes()
        options = self._options
        self._nodes = complete_nodes(written, options.families, options.pod_cidrs, options.node_cidrs)
        for name, node in self._nodes.items():
            oid = ObjectId("Node", "", name)
            data = self._objects.get(oid) or {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            self._objects[oid] = _completed_node(data, node)

    def make_pods(self, previous: Mapping[Key, tuple[Address, ...]]) -> None:
        specs = {oid.name: as_mapping(self._objects[oid].get("spec")) for oid in self._of("Node")}
        cordoned = frozenset(name for name, spec in specs.items() if spec.get("unschedulable") is True)
        placement = Placement(self._nodes, previous, self._options.families, cordoned)
        drafts: dict[Key, _Draft] = {}
        for oid in self._of(*WORKLOADS):
            self._expand_workload(oid, placement, drafts)
        for oid in self._of("Pod"):
            draft = _Draft(self._objects[oid], self._documents[oid], "/".join(oid), 0, from_template=False)
            drafts[Key(oid.namespace, oid.name)] = draft
        parsed: dict[Key, tuple[Pod, Problems]] = {}
        for key, draft in drafts.items():
            pod, rejected = parse_pod(draft.data)
            self._reject_pod(rejected, draft)
            if pod is not None:
                parsed[key] = pod, Problems("Pod", key.namespace, key.name)
                placement.reserve(draft.data, *parsed[key])
        for key, (pod, problems) in parsed.items():
            draft = drafts[key]
            data = placement.place(draft.data, pod, draft.group, draft.index, problems)
            self._reject_pod(tuple(problems.found), draft)
            self._store_pod(key, data, draft)

    def make_services(self, previous: Mapping[Key, tuple[Address, ...]]) -> None:
        found: dict[Key, tuple[Mapping[str, Any], Service]] = {}
        for oid in self._of("Service"):
            service = self._parse(oid, parse_service)
            if service is not None:
                found[service.key] = self._objects[oid], service
        cidrs = self._options.service_cidrs
        families = self._options.families or sorted({b.family for n in self._nodes.values() for b in n.pod_cidrs}) or [Family.V4]
        for key, data in complete_services(found, families, cidrs, previous).items():
            self._objects[ObjectId("Service", *key)] = data
            completed, _ = parse_service(data)
            self._services[key] = completed or found[key][1]

    def make_policies(self) -> None:
        for oid in self._of("NetworkPolicy"):
            policy = self._parse(oid, parse_policy)
            if policy is not None:
                self._policies[policy.key] = policy

    def make_namespaces(self) -> None:
        for oid in self._of("Namespace"):
            namespace = self._parse(oid, parse_namespace)
            if namespace is not None:
                self._namespaces[namespace.name] = namespace
        mentioned = {oid.namespace for oid in self._objects if oid.namespace} | {DEFAULT_NAMESPACE}
        for name in sorted(mentioned - set(self._namespaces)):
            self._namespaces[name] = Namespace(name, Labels({NAMESPACE_NAME_LABEL: name}))
        for name, value in self._namespaces.items():
            oid = ObjectId("Namespace", "", name)
            data = self._objects.get(oid) or {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self._objects[oid] = {**data, "metadata": {**data["metadata"], "labels": dict(value.labels)}}

    def _add(self, document: Document) -> None:
        kind = document.kind
        metadata, problems = read_metadata(document.data, kind, namespaced=kind not in CLUSTER_KINDS)
        if not metadata.usable:
            self._rejected += [locate(r, document) for r in problems.found]
            return
        oid = ObjectId(kind, *metadata.key)
        earlier = self._documents.pop(oid, None)
        if earlier is not None:
            reason = f"replaces the same object of {earlier.file}:{earlier.line_of()}"
            self._warnings.append(locate(Rejected(kind, *metadata.key, (), reason), document))
        self._documents[oid] = document
        written = document.data["metadata"]
        scope = {"namespace": oid.namespace} if oid.namespace else {}
        self._objects[oid] = {**document.data, "metadata": {"uid": uid_of(kind, metadata.key), **written, **scope}}

    def _of(self, *kinds: str) -> list[ObjectId]:
        """The identities of the documents of some kinds, in their order."""
        return [oid for oid in self._documents if oid.kind in kinds]

    def _parse(self, oid: ObjectId, parse: Callable[[Mapping[str, Any]], tuple[T | None, tuple[Rejected, ...]]]) -> T | None:
        value, rejected = parse(self._objects[oid])
        self._rejected += [locate(r, self._documents[oid]) for r in rejected]
        return value

    def _invented_nodes(self) -> list[Node]:
        names = self._mentioned_nodes() or [INVENTED_NODE]
        wanted = self._options.families or (Family.V4,)
        whole = tuple(c for c in self._options.pod_cidrs if c.family in wanted)
        # The only node has the whole block: a folder of a thousand pods must not fill it.
        return [Node(name, Labels({HOSTNAME_LABEL: name}), pod_cidrs=whole if len(names) == 1 else ()) for name in names]

    def _mentioned_nodes(self) -> list[str]:
        names: set[str] = set()
        for oid in self._of("Pod", *WORKLOADS):
            spec = as_mapping(self._objects[oid].get("spec"))
            if oid.kind in WORKLOADS:
                spec = as_mapping(as_mapping(spec.get("template")).get("spec"))
            name = spec.get("nodeName")
            names |= {name} if isinstance(name, str) and name else set()
        return sorted(names)

    def _expand_workload(self, oid: ObjectId, placement: Placement, drafts: dict[Key, _Draft]) -> None:
        document, key = self._documents[oid], Key(oid.namespace, oid.name)
        problems = Problems(oid.kind, *key)
        for index, data in enumerate(expand_workload(self._objects[oid], oid.kind, key, problems, placement.eligible)):
            pod_key = Key(oid.namespace, data["metadata"]["name"])
            drafts[pod_key] = _Draft(data, document, "/".join(oid), index, from_template=True)
        self._rejected += [locate(r, document) for r in problems.found]

    def _reject_pod(self, rejected: tuple[Rejected, ...], draft: _Draft) -> None:
        """A template's faults belong to its workload, and are told once, not for every replica."""
        document = draft.document
        for item in rejected:
            if not draft.from_template:
                self._rejected.append(locate(item, document))
                continue
            path = ("spec", "template", *item.path)
            located = locate(Rejected(document.kind, item.namespace, document.name, path, item.reason), document)
            if located not in self._told:
                self._told.add(located)
                self._rejected.append(located)

    def _store_pod(self, key: Key, data: Mapping[str, Any], draft: _Draft) -> None:
        completed = {**data, "metadata": {"uid": uid_of("Pod", key), **data["metadata"]}}
        pod, _ = parse_pod(completed)  # its faults were told when the draft was read
        if pod is not None:
            oid = ObjectId("Pod", *key)
            self._objects[oid] = completed
            self._documents.setdefault(oid, draft.document)
            self._pods[key] = pod
            if not pod.node and not as_mapping(draft.data.get("status")).get("phase"):
                reason = "no node fits its nodeSelector: it stays Pending"
                self._warnings.append(locate(Rejected("Pod", *key, ("spec", "nodeSelector"), reason), draft.document))


def _completed_node(data: Mapping[str, Any], node: Node) -> dict[str, Any]:
    """A node's object with the labels, blocks and addresses that it was given."""
    blocks = [block.text for block in node.pod_cidrs]
    spec = {**as_mapping(data.get("spec")), "podCIDRs": blocks, **({"podCIDR": blocks[0]} if blocks else {})}
    status = as_mapping(data.get("status"))
    written = status.get("addresses")
    own = [{"type": "InternalIP", "address": address.text} for address in node.addresses]
    others = [a for a in written if isinstance(a, Mapping) and a.get("type") != "InternalIP"] if isinstance(written, list) else []
    metadata = {**data["metadata"], "labels": dict(node.labels)}
    return {**data, "metadata": metadata, "spec": spec, "status": {**status, "addresses": own + others}}
