"""The bill of materials: its form, and that it names each locked package with each of its hashes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sbom

TOP = Path(__file__).resolve().parents[2]
LOCK = (TOP / "requirements-runtime.lock").read_text(encoding="utf-8")
PROJECT = {"name": "npctl", "version": "1.2.3", "description": "a controller", "license": "Apache-2.0"}
DIGESTS = ("0" * 64, "a" * 64)
SMALL = f"""# made by a tool
Zope.Thing_x==1.0+local \\
    --hash=sha256:{DIGESTS[0]} \\
    --hash=sha256:{DIGESTS[1]}
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:{DIGESTS[1]}
"""


def _document(text: str) -> dict[str, Any]:
    return json.loads(sbom.document(PROJECT, sbom.read_lock(text)))


def _hashes(component: dict[str, Any]) -> list[str]:
    return [entry["content"] for reference in component["externalReferences"] for entry in reference["hashes"]]


def test_the_head_is_that_of_cyclonedx() -> None:
    made = _document(LOCK)
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made["serialNumber"])
    own = made["metadata"]["component"]
    assert (own["type"], own["name"], own["version"], own["purl"]) == ("application", "npctl", "1.2.3", "pkg:pypi/npctl@1.2.3")


def test_every_component_has_what_a_reader_of_sboms_looks_for() -> None:
    components = _document(LOCK)["components"]
    references = [component["bom-ref"] for component in components]
    assert len(set(references)) == len(references) > 20
    for component in components:
        assert component["type"] == "library" and component["name"] and component["version"]
        assert re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[A-Za-z0-9.%-]+", component["purl"])
        assert {reference["type"] for reference in component["externalReferences"]} == {"distribution"}
        assert {e["alg"] for reference in component["externalReferences"] for e in reference["hashes"]} == {"SHA-256"}


def test_every_locked_package_is_there_with_every_hash_and_nothing_else_is() -> None:
    """Counted in the lock's text by other means than those of tools/sbom.py."""
    entries = [entry.split() for entry in re.split(r"\n(?=[A-Za-z])", re.sub(r"(?m)^#.*\n", "", LOCK))]
    locked = {
        words[0]: sorted(word.removeprefix("--hash=sha256:") for word in words if word.startswith("--hash=")) for words in entries
    }
    made = {f"{c['name']}=={c['version']}": sorted(_hashes(c)) for c in _document(LOCK)["components"]}
    assert made == locked
    assert sum(len(digests) for digests in locked.values()) == LOCK.count("--hash=sha256:")


def test_names_versions_and_markers_are_told() -> None:
    first, second = _document(SMALL)["components"]
    assert first["purl"] == "pkg:pypi/zope-thing-x@1.0%2Blocal" and first["scope"] == "required"
    assert _hashes(first) == list(DIGESTS) and "properties" not in first
    assert second["scope"] == "optional"
    assert second["properties"] == [{"name": "npctl:marker", "value": "sys_platform == 'win32'"}]


def test_equal_input_gives_equal_bytes_and_another_lock_another_number() -> None:
    assert sbom.document(PROJECT, sbom.read_lock(LOCK)) == sbom.document(PROJECT, sbom.read_lock(LOCK))
    assert _document(LOCK)["serialNumber"] != _document(SMALL)["serialNumber"]


@pytest.mark.parametrize("line", ["requests>=2 \\", "requests", "    --hash=md5:00", "-e .", "    --hash=sha256:" + "0" * 63])
def test_a_line_that_would_be_left_out_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="line 7 of the lock"):
        sbom.read_lock(f"{SMALL}{line}\n")


def test_the_program_prints_this_projects_own() -> None:
    told = subprocess.run([sys.executable, str(TOP / "tools/sbom.py")], capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    assert {"aiohttp", "kopf", "pyyaml"} <= {component["name"].lower() for component in json.loads(told.stdout)["components"]}
