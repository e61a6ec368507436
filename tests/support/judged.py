"""A small cluster for the oracle's tests, and its verdicts in a word."""

from __future__ import annotations

from builders import (
    cluster,
    namespace,
    pod,
)
from netpol_compiler.model.objects import Cluster, Connection, Namespace, Node, Pod, Policy
from netpol_compiler.witnesses.oracle import judge

WEB = pod("a", "web", "10.0.1.1", app="web", ports=["http:80"])
DB = pod("a", "db", "10.0.1.2", app="db", ports=["sql:5432"])
OTHER = pod("b", "other", "10.0.2.1", app="web", node="n2")
OUTSIDE = "192.0.2.1"
BASE = (namespace("a", team="red"), namespace("b", team="blue"), WEB, DB, OTHER)


def world(*more: Namespace | Pod | Policy | Node) -> Cluster:
    return cluster(*BASE, *more)


def passes(*policies: Policy, c: Connection, others: tuple[Pod | Namespace, ...] = ()) -> bool:
    return judge(world(*others, *policies), c).allowed
