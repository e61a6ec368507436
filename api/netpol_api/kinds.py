"""The kinds of objects that npctl uses, Kubernetes' and its own: one table. Pure.

In: nothing. Out: `Kind` values, each of which knows its apiVersion, its list's kind, its paths and the names that kubectl takes
for it.
Excluded: what objects of a kind mean, and kinds that only a server's discovery knows.
"""

from __future__ import annotations

from typing import NamedTuple

GROUP, VERSION = "npctl.dev", "v1alpha1"


class Kind(NamedTuple):
    """One kind in one version. `short`: kubectl's short name, empty where there is none."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    def path(self, namespace: str = "", name: str = "") -> str:
        """The path of one object; without a name that of a list, of one namespace or of all."""
        root = f"/apis/{self.group}" if self.group else "/api"
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}/{self.version}{place}/{self.plural}{f'/{name}' if name else ''}"

    @property
    def names(self) -> tuple[str, ...]:
        """What kubectl takes for the kind, in lower case: short name, singular, plural, both with their group."""
        singular = self.kind.lower()
        full = (f"{singular}.{self.group}", f"{self.plural}.{self.group}") if self.group else ()
        return (*((self.short,) if self.short else ()), singular, self.plural, *full)


NODE = Kind("", "v1", "Node", "nodes", namespaced=False, short="no")
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False, short="ns")
POD = Kind("", "v1", "Pod", "pods", short="po")
SERVICE = Kind("", "v1", "Service", "services", short="svc")
EVENT = Kind("", "v1", "Event", "events", short="ev")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts", short="sa")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps", short="cm")
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments", short="deploy")
REPLICA_SET = Kind("apps", "v1", "ReplicaSet", "replicasets", short="rs")
STATEFUL_SET = Kind("apps", "v1", "StatefulSet", "statefulsets", short="sts")
DAEMON_SET = Kind("apps", "v1", "DaemonSet", "daemonsets", short="ds")
JOB = Kind("batch", "v1", "Job", "jobs")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", short="netpol")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")

ADDRESS_SET = Kind(GROUP, VERSION, "AddressSet", "addresssets", namespaced=False, short="aset")
COMPILED_POLICY = Kind(GROUP, VERSION, "CompiledPolicy", "compiledpolicies", short="cpol")
NODE_REPORT = Kind(GROUP, VERSION, "NodeReport", "nodereports", namespaced=False, short="nrep")

WORKLOADS = (DEPLOYMENT, REPLICA_SET, STATEFUL_SET, DAEMON_SET, JOB)
"""The kinds that make pods."""
USED = (NODE, NAMESPACE, POD, SERVICE, *WORKLOADS, NETWORK_POLICY)
"""Kubernetes' kinds that can change an answer about packets between pods."""
OURS = (ADDRESS_SET, COMPILED_POLICY, NODE_REPORT)
