"""What the operator counts for people: which policies the nodes' reports say are in force."""

from __future__ import annotations

from netpol_api.resources import NODE_REPORT_SCHEMA
from netpol_compiler.model.objects import Key
from netpol_kube.client import Json
from netpol_operator.publishing.status import ReportSink


def report(schema: object) -> Json:
    return {"metadata": {"name": "n1"}, "status": {"schema": schema, "policies": {"a/p": "d1"}}}


def test_a_report_is_counted_only_while_its_schema_is_the_one_we_read() -> None:
    changed: list[Key] = []
    sink = ReportSink(changed.append, lambda: None)
    for schema, in_force in ((NODE_REPORT_SCHEMA, {"a/p": "d1"}), (NODE_REPORT_SCHEMA + 1, {}), (None, {})):
        sink.put(report(schema))
        assert sink.in_force == {"n1": in_force}
    assert changed == [Key("a", "p")] * 2
