"""The bill of materials of a release: what Python packages the image holds, as CycloneDX 1.6 in JSON.

In: requirements-runtime.lock, from which the Dockerfile installs; name and version of the project. Out: one component for
each locked package with its purl, and for each file that the lock accepts a reference with its SHA-256. The lock has
hashes of all files of a version (one wheel for each platform, the sources), so they stand at references of type
`distribution` and not at the component, which would claim that one file has all of them.

Equal input gives equal bytes: no time, and a serial number that is made from the content. Left out: the Debian packages of
the image, which no lock pins. Standard library only.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from steps import TOP

LOCK = TOP / "requirements-runtime.lock"
SPEC_VERSION = "1.6"

_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]*?))?\s*\\?")
_HASH = re.compile(r"\s+--hash=sha256:(?P<digest>[0-9a-f]{64})(?: \\)?")


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One entry of a lock. `marker` says on which systems it is installed; empty: on all. `digests`: SHA-256, one a file."""

    name: str
    version: str
    marker: str
    digests: tuple[str, ...]

    @property
    def purl(self) -> str:
        return purl(self.name, self.version)


def main() -> int:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(document(project, read_lock(LOCK.read_text(encoding="utf-8"))), end="")
    return 0


def read_lock(text: str) -> tuple[LockedPackage, ...]:
    """All entries of a lock, in its order. Raises ValueError for a line that is neither entry, hash nor comment."""
    found: list[LockedPackage] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if entry := _ENTRY.fullmatch(line):
            found.append(LockedPackage(entry["name"], entry["version"], (entry["marker"] or "").strip(), ()))
        elif (digest := _HASH.fullmatch(line)) and found:
            last = found[-1]
            found[-1] = LockedPackage(last.name, last.version, last.marker, (*last.digests, digest["digest"]))
        else:
            raise ValueError(f"line {number} of the lock is neither a package nor a hash: {line.strip()}")
    return tuple(found)


def purl(name: str, version: str) -> str:
    """A package URL of the type pypi: the name in lower case with dashes."""
    return f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{quote(version, safe='')}"


def document(project: dict[str, Any], packages: Iterable[LockedPackage]) -> str:
    """The CycloneDX document, as JSON text. `project`: the table of pyproject.toml."""
    own = purl(project["name"], project["version"])
    about = {
        "type": "application",
        "bom-ref": own,
        "name": project["name"],
        "version": project["version"],
        "description": project["description"],
        "licenses": [{"license": {"id": project["license"]}}],
        "purl": own,
    }
    components = [_component(package) for package in packages]
    content = json.dumps([about, components], sort_keys=True)
    bom = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": about},
        "components": components,
    }
    return json.dumps(bom, indent=2) + "\n"


def _component(package: LockedPackage) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        # A package with a marker is locked for all systems and installed on some only.
        "scope": "optional" if package.marker else "required",
        "purl": package.purl,
        "externalReferences": [
            {"type": "distribution", "url": package.purl, "hashes": [{"alg": "SHA-256", "content": digest}]}
            for digest in package.digests
        ],
    }
    if package.marker:
        component["properties"] = [{"name": "npctl:marker", "value": package.marker}]
    return component


if __name__ == "__main__":
    sys.exit(main())
