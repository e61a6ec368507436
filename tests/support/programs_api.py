"""The chart's programs in a lab: who is who, who leads, what they count, and ending, pausing and starting them.

A program is called NAMESPACE/POD, as the lab calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from cluster_api import Cluster

SYSTEM = "npctl-system"
LEASE = "npctl-operator"
OPERATOR_PORT, AGENT_PORT = 9435, 9436
STARTED = 60.0
"""Seconds in which a program that was started is at work, on a busy machine."""


class Programs:
    """Those of one lab."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    # -- who -------------------------------------------------------------------------------------------

    def _pods(self, component: str) -> dict[str, str]:
        """Program -> its node."""
        pods = self._cluster.items("pods", "-n", SYSTEM, "-l", f"app.kubernetes.io/component={component}")
        return {f"{SYSTEM}/{p['metadata']['name']}": str(p["spec"].get("nodeName") or "") for p in pods}

    def operators(self) -> tuple[str, ...]:
        return tuple(sorted(self._pods("operator")))

    def agents(self) -> dict[str, str]:
        """Node -> the program of its agent."""
        return {node: program for program, node in self._pods("agent").items()}

    def leader(self) -> str:
        """The operator that the Lease names; empty where it names none."""
        holder = self._cluster.get("lease", LEASE, "-n", SYSTEM)["spec"].get("holderIdentity") or ""
        return f"{SYSTEM}/{holder}" if holder else ""

    def lease_age(self) -> float:
        """Seconds since the leader has renewed its Lease."""
        renewed = self._cluster.get("lease", LEASE, "-n", SYSTEM)["spec"]["renewTime"]
        return (datetime.now(UTC) - datetime.fromisoformat(renewed)).total_seconds()

    def standby(self) -> str:
        """The one operator that does not lead."""
        (found,) = set(self.operators()) - {self.leader()}
        return found

    # -- what they say ---------------------------------------------------------------------------------

    def figures(self, program: str, port: int = OPERATOR_PORT) -> dict[str, float]:
        """Its metrics, through the API server's proxy: `name` or `name{label=value,...}` -> number."""
        namespace, _, name = program.partition("/")
        text = self._cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics")
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def total(self, program: str, metric: str, port: int = OPERATOR_PORT) -> float:
        """The sum of one metric over its labels."""
        return sum(value for name, value in self.figures(program, port).items() if name.partition("{")[0] == metric)

    # -- making them do something ----------------------------------------------------------------------

    def control(self, action: str, *programs: str) -> None:
        """See LabClient.control."""
        for program in programs:
            self._cluster.client.control(program, action)

    @contextmanager
    def held(self, *programs: str) -> Iterator[None]:
        """Killed (SIGKILL) on entry, started on exit; does not wait for their work."""
        self.control("hold", *programs)
        try:
            yield
        finally:
            self.control("start", *programs)

    @contextmanager
    def paused(self, *programs: str) -> Iterator[None]:
        """SIGSTOP on entry, SIGCONT on exit."""
        self.control("pause", *programs)
        try:
            yield
        finally:
            self.control("resume", *programs)

    @contextmanager
    def blind(self, *programs: str) -> Iterator[None]:
        """What happens inside these programs never learn by a watch: theirs are cut before, and 410 Gone after.

        The API server is stopped before the programs are paused, because a watch that is not read still holds what it was sent.
        """
        self.control("stop", "apiserver")
        with self.paused(*programs):
            self.control("start", "apiserver")
            yield
            self.control("stop", "apiserver")
            self._cluster.client.compact()
            self.control("start", "apiserver")

    def all_running(self) -> None:
        """Whatever a test did, everything runs again; returns when all is in force."""
        client = self._cluster.client
        for program, pid in client.status()["programs"].items():
            client.control(program, "start")
            if pid is not None:
                client.control(program, "resume")
        client.wait(limit=STARTED)
