"""Who may import whom, and that the shape of the tree does not disturb the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=TOP, capture_output=True, text=True, timeout=60, check=False)


def test_the_import_contracts_hold() -> None:
    checked = _python("-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_logo=True))")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_from_the_checkout_operator_is_still_the_standard_library_s() -> None:
    seen = _python("-c", "import operator, netpol_operator; print(operator.itemgetter(0)('x'), operator.__name__)")
    assert seen.stdout.split() == ["x", "operator"], seen.stderr


def test_the_compiler_loads_no_cluster_client_no_processes_and_no_files() -> None:
    heavy = "{'kopf', 'kubernetes', 'iptc', 'subprocess', 'asyncio', 'tempfile'}"
    code = (
        "import pkgutil, importlib, sys, netpol_compiler\n"
        "import netaddr, yaml; before = set(sys.modules)\n"
        "modules = pkgutil.walk_packages(netpol_compiler.__path__, 'netpol_compiler.')\n"
        "for module in modules: importlib.import_module(module.name)\n"
        f"print(sorted({heavy} & (set(sys.modules) - before)))"
    )
    seen = _python("-c", code)
    assert seen.stdout.strip() == "[]", seen.stdout + seen.stderr
