"""What the operator counts for people: which policies the nodes' reports say are in force."""

from __future__ import annotations

from netpol_api import node_report
from netpol_compiler.model.objects import Key
from netpol_kube.client import Json
from netpol_operator.publishing.status import ReportSink


def report(schema: object) -> Json:
    return {"metadata": {"name": "n1"}, "status": {"schema": schema, "policies": {"a/p": "d1"}}}


def test_a_report_is_counted_only_while_its_schema_is_the_one_we_read() -> None:
    changed: list[Key] = []
    sink = ReportSink(changed.append, lambda: None)
    for schema, in_force in ((node_report.SCHEMA, {"a/p": "d1"}), (node_report.SCHEMA + 1, {}), (None, {})):
        sink.put(report(schema))
        assert {name: found.in_force for name, found in sink.reports.items()} == {"n1": in_force}
    assert changed == [Key("a", "p")] * 2
