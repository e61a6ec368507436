"""Makes the files of a release. For `./dev release`; it pushes nothing, .github/workflows/release.yml does.

In: this checkout, and helm of `./dev cluster`. Out: a folder that holds these, its path on stdout, progress on stderr:

    npctl-VERSION.tar.gz             the sources
    npctl-VERSION-py3-none-any.whl   the wheel, built from those sources and not from the checkout
    npctl-chart-VERSION.tgz          the chart
    npctl-VERSION.cdx.json           what the image holds of Python packages (tools/sbom.py)
    SHA256SUMS                       of all above, for `sha256sum -c`
    NOTES.md                         what CHANGELOG.md says of the version

Every place that names the version must name the same one. With --tag, the tag must be `vVERSION` too, and CHANGELOG.md must
have a section for it; without, the notes are those of Unreleased. What builds is in .venv: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import sbom
from netpol_lab.control import kubernetes_bin
from netpol_lab.errors import LabLacksPrograms
from steps import TOP, StepError, step

CHART = TOP / "charts" / "npctl"
CHECKSUMS, NOTES = "SHA256SUMS", "NOTES.md"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev release", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (default: build/release/VERSION)")
    parser.add_argument("--tag", help="the tag that is released; refused unless it is vVERSION and CHANGELOG.md has its section")
    options = parser.parse_args(arguments)
    try:
        version = agreed_version(versions(), options.tag)
        notes = release_notes((TOP / "CHANGELOG.md").read_text(encoding="utf-8"), version, released=options.tag is not None)
        print(make(options.out or TOP / "build" / "release" / version, version, notes))
    except (StepError, LabLacksPrograms) as error:
        print(f"./dev release: {error}", file=sys.stderr)
        return 1
    return 0


# ---- what is released ------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """The version that each place names, by place. Empty where it names none."""
    chart = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    dockerfile = (TOP / "Dockerfile").read_text(encoding="utf-8")
    return {
        "pyproject.toml": str(_project()["version"]),
        "charts/npctl/Chart.yaml version": _first(r"(?m)^version: (\S+)$", chart),
        "charts/npctl/Chart.yaml appVersion": _first(r"(?m)^appVersion: (\S+)$", chart),
        "the Dockerfile's label": _first(r'org\.opencontainers\.image\.version="([^"]*)"', dockerfile),
    }


def agreed_version(named: Mapping[str, str], tag: str | None) -> str:
    """The one version that all name, and the tag too where there is one. Raises StepError."""
    if len(set(named.values())) != 1:
        raise StepError("the versions differ: " + ", ".join(f"{version} in {place}" for place, version in named.items()))
    version = next(iter(named.values()))
    if tag is not None and tag != f"v{version}":
        raise StepError(f"the tag is {tag}, and pyproject.toml and the chart are of version {version}, whose tag is v{version}")
    return version


def release_notes(changelog: str, version: str, *, released: bool) -> str:
    """What the changelog says of the version; where it is not `released` and has no section yet, what stands under Unreleased."""
    found = _section(changelog, rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d")
    if not found and not released:
        found = _section(changelog, r"\[Unreleased\]")
    if not found:
        raise StepError(f"CHANGELOG.md says nothing below a heading `## [{version}] - YYYY-MM-DD`")
    return found + "\n"


def _section(changelog: str, heading: str) -> str:
    return _first(rf"(?ms)^## {heading}\n(.*?)(?=^## |\Z)", changelog).strip()


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _project() -> dict[str, object]:
    return dict(tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"])


# ---- its files -------------------------------------------------------------------------------------------------------


def make(out: Path, version: str, notes: str) -> Path:
    """Fills the folder. Raises StepError, also for a folder that holds anything else."""
    out, helm = out.absolute(), str(kubernetes_bin.find().helm)
    sources, wheel = f"npctl-{version}.tar.gz", f"npctl-{version}-py3-none-any.whl"
    chart, materials = f"npctl-chart-{version}.tgz", f"npctl-{version}.cdx.json"
    files = (sources, wheel, chart, materials)
    if out.is_dir() and (strange := {path.name for path in out.iterdir()} - {*files, CHECKSUMS, NOTES}):
        raise StepError(f"{out} holds {min(strange)}, which is not of this release; name a folder of its own with --out")
    out.mkdir(parents=True, exist_ok=True)
    step("sources", [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(out)])
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--wheel-dir", str(out)]
    step("wheel, from the sources", [sys.executable, "-m", "pip", "wheel", *options, str(out / sources)])
    step("chart", [helm, "package", str(CHART), "--destination", str(out)])
    # Beside the sources, npctl-VERSION.tgz would be easy to confuse with them.
    (out / f"npctl-{version}.tgz").replace(out / chart)
    lock = sbom.LOCK.read_text(encoding="utf-8")
    (out / materials).write_text(sbom.document(_project(), sbom.read_lock(lock)), encoding="utf-8")
    (out / NOTES).write_text(notes, encoding="utf-8")
    (out / CHECKSUMS).write_text("".join(_checksum(out / name) for name in sorted(files)), encoding="utf-8")
    return out


def _checksum(file: Path) -> str:
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
