"""`npctl lint`: runs every check on every policy and prints what they found.

The checks are in `lint_checks` and `lint_rules`, one function each; the table there names their codes. A policy that
a later file replaces is checked too, as if it were the one that counts: `-f examples/` means all of them.
"""

from __future__ import annotations

from npctl.errors import ExitCode
from npctl.inputs.origin import Origin, open_origin
from npctl.inputs.state import State
from npctl.lint.model import CHECKS, Check, Finding, Severity, Subject
from npctl.output import Colour, Format, emit, paint, say, table

_COLOURS = {Severity.ERROR: Colour.RED, Severity.WARNING: Colour.YELLOW, Severity.INFO: Colour.DIM}


def run(origin: Origin, strict: bool, codes: bool, output: Format) -> None:
    """Print the findings. Exits with 1 when there are errors (`strict`: or warnings)."""
    from npctl.lint import cluster_checks, rule_checks  # noqa: F401  # importing them fills CHECKS

    if codes:
        _list_checks(output)
        return
    opened = open_origin(origin, tolerant=True, quiet=True)
    findings = [f for f in lint(opened.state) if opened.chosen is None or f.namespace == opened.chosen]
    if output.is_data:
        emit({"findings": [f.data for f in findings], "summary": _counts(findings)}, output)
    else:
        _show(findings)
    bad = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    if any(f.severity in bad for f in findings):
        raise SystemExit(int(ExitCode.NEGATIVE))


def lint(state: State) -> list[Finding]:
    """All findings, by place."""
    found: dict[Finding, None] = {}
    for subject in _subjects(state):
        for check in CHECKS.values():
            found.update(dict.fromkeys(check.run(subject)))
    return sorted(found, key=lambda f: (f.file, f.line, f.object if not f.file else "", f.code, f.message))


def _subjects(state: State) -> list[Subject]:
    """Each written version of each policy, in a state in which that version counts."""
    subjects = [Subject(state, d, p) for d, p in state.policy_documents()]
    for old, _ in state.documents.replaced:
        if old.kind == "NetworkPolicy":
            other, policy = state.with_policy(old)
            if policy is not None:
                subjects.append(Subject(other, old, policy))
    return subjects


def _counts(findings: list[Finding]) -> dict[str, int]:
    return {s.value + "s": sum(f.severity is s for f in findings) for s in Severity}


def _show(findings: list[Finding]) -> None:
    for finding in findings:
        word = paint(finding.severity.value, _COLOURS[finding.severity])
        place = f"{finding.file}:{finding.line}: " if finding.file else ""
        say(f"{place}{word} {finding.code} {finding.object}: {finding.where}{finding.message}")
        if finding.remedy:
            say(f"    {paint('remedy:', Colour.DIM)} {finding.remedy}")
    counts = _counts(findings)
    say(f"{counts['errors']} errors, {counts['warnings']} warnings, {counts['infos']} remarks")


def _in_order() -> list[Check]:
    return [CHECKS[code] for code in sorted(CHECKS)]


def _list_checks(output: Format) -> None:
    if output.is_data:
        emit([{"code": c.code, "severity": c.severity.value, "title": c.title} for c in _in_order()], output)
        return
    for line in table(["CODE", "SEVERITY", "FINDS"], [[c.code, c.severity.value, c.title] for c in _in_order()]):
        say(line)
