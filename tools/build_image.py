"""Builds the container image by the Dockerfile, where there is neither a container engine nor a registry. For `./dev image`.

In: the Dockerfile, and what .dockerignore lets through; Debian's packages, from the mirror that this machine uses if it is
the same Debian; PyPI's, by the hashes of requirements-*.lock. Out: a Docker archive in build/image, which container
engines load and containerd imports (`ctr images import`); its path on stdout, progress on stderr. The same sources give
the same archive, without building again.

    mmdebstrap ---> base.tar ---> image npctl-base ---> buildah, the Dockerfile's stages ---> archive
                    (kept a week)                       (kept as long as its base)

Needs root's rights: its own, or sudo's without a password. What root makes is in one cache folder outside the checkout;
the archive belongs to the caller. Mounts are made in a namespace of their own, which ends with the command.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netpol_lab.control.kubernetes_bin import cache_root
from steps import TOP, StepError, only_one, step

OUT = TOP / "build" / "image"
SUITE = "bookworm"
BASE = "npctl-base"
_KEEP_SECONDS = 7 * 24 * 3600
_BASE_DOCKERFILE = 'FROM scratch\nADD base.tar /\nCMD ["bash"]\n'
_NO_DOCUMENTATION = (
    "exclude=/usr/share/man/*",
    "exclude=/usr/share/locale/*",
    "exclude=/usr/share/doc/*",
    "include=/usr/share/doc/*/copyright",
)
_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
# What the network asks for is given on, since sudo drops it.
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")


def main() -> int:
    try:
        print(build())
    except StepError as error:
        print(f"./dev: {error}", file=sys.stderr)
        return 1
    return 0


def version() -> str:
    return str(tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def build() -> Path:
    """The archive's path, after building what is not there yet. Raises StepError."""
    if subprocess.run(as_root(["true"]), capture_output=True, check=False).returncode:
        raise StepError(
            "an image's files belong to root, and neither is this root nor does sudo let it through without a password"
        )
    archive, stamp = OUT / f"npctl-{version()}.tar", OUT / f"npctl-{version()}.made-of"
    OUT.mkdir(parents=True, exist_ok=True)
    folder = cache_root() / "image"
    with only_one(folder / "lock", "the image"):
        base = folder / "base.tar"
        fresh = base.exists() and time.time() - base.stat().st_mtime < _KEEP_SECONDS
        wanted = fingerprint()
        if not (fresh and archive.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted):
            stamp.unlink(missing_ok=True)
            Builder(folder, storage_driver(folder)).build(base, fresh, archive)
            stamp.write_text(wanted, encoding="utf-8")
    return archive


def fingerprint() -> str:
    """Changes with the Dockerfile, and with whatever .dockerignore lets it see."""
    ignore = TOP / ".dockerignore"
    seen = [TOP / line[1:] for line in ignore.read_text(encoding="utf-8").splitlines() if line.startswith("!")]
    files = {
        file for place in seen for file in (place.rglob("*") if place.is_dir() else [place]) if "__pycache__" not in file.parts
    }
    digest = hashlib.sha256()
    for file in sorted({TOP / "Dockerfile", ignore, *files}):
        if file.is_file():
            digest.update(f"{file.relative_to(TOP)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Builder:
    """All state is in `folder`: base.tar, and buildah's storage, which root owns."""

    folder: Path
    driver: str

    def build(self, base: Path, fresh: bool, archive: Path) -> None:
        if not fresh:
            self._forget()
            self._make_base(base)
        if not self._has_base():
            options = ["--isolation=chroot", f"--tag={BASE}", "--file=-", str(self.folder)]
            step("image of that Debian", self._buildah("build", *options), given=_BASE_DOCKERFILE)
        self._write(self._run_dockerfile(), archive)
        if self.driver == "vfs":
            self._forget()  # what is kept would be whole copies, which is too much

    def _make_base(self, base: Path) -> None:
        """What debian:bookworm-slim is: the required packages and apt; no manuals, no translations."""
        part = base.with_suffix(".part")
        merged = ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=usr-is-merged"]
        excluded = [f"--dpkgopt=path-{line}" for line in _NO_DOCUMENTATION]
        what = ["--mode=root", "--variant=minbase", "--format=tar", *merged, *excluded, SUITE, str(part), *mirrors()]
        step(f"Debian {SUITE} from its packages", as_root(["mmdebstrap", *what]))
        part.replace(base)

    def _has_base(self) -> bool:
        found = subprocess.run(self._buildah("images", "--quiet", BASE), capture_output=True, text=True, check=False)
        return found.returncode == 0 and bool(found.stdout.strip())

    def _run_dockerfile(self) -> str:
        """The id of the image that the Dockerfile gives."""
        out = self.folder / "image-id"
        # Where each kept step is a whole copy, keeping them takes longer than it saves.
        steps = f"--layers={'true' if self.driver == 'overlay' else 'false'}"
        options = ["--isolation=chroot", "--network=host", steps, f"--build-arg=BASE=localhost/{BASE}", *self._pip_options()]
        step("image, by the Dockerfile", self._buildah("build", *options, f"--iidfile={out}", str(TOP)))
        return out.read_text(encoding="utf-8").strip()

    def _pip_options(self) -> list[str]:
        options = [f"--build-arg=PIP_INDEX_URL={index}"] if (index := os.environ.get("PIP_INDEX_URL")) else []
        certificates = Path(os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or "")
        if certificates.is_file():
            # In a folder that every Debian has, so that the mount leaves no trace in a layer.
            mounted = self.folder / "certificates"
            mounted.mkdir(exist_ok=True)
            (mounted / "ca.crt").write_bytes(certificates.read_bytes())
            options += [f"--volume={mounted}:/mnt:ro", "--build-arg=PIP_CERT=/mnt/ca.crt"]
        return options

    def _write(self, image: str, archive: Path) -> None:
        part = archive.with_suffix(".part")
        part.unlink(missing_ok=True)
        # By its id: by a name, the archive would carry the storage's name too.
        step(f"archive of npctl:{version()}", self._buildah("push", image, f"docker-archive:{part}:npctl:{version()}"))
        _run_as_root(["chown", f"{os.getuid()}:{os.getgid()}", str(part)])
        part.replace(archive)

    def _forget(self) -> None:
        _run_as_root(["rm", "-rf", "--one-file-system", str(self.folder / "storage"), str(self.folder / "run")])

    def _buildah(self, *arguments: str) -> list[str]:
        places = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        return [*as_root(_OWN_MOUNTS), "buildah", "--storage-driver", self.driver, *places, *arguments]


def storage_driver(folder: Path) -> str:
    """Overlays, where the file system of `folder` lets them be (another overlay, as in a container, does not); else copies."""
    trial = folder / "trial"
    for part in ("lower", "upper", "work", "all"):
        (trial / part).mkdir(parents=True, exist_ok=True)
    options = ",".join(f"{name}dir={trial / name}" for name in ("lower", "upper", "work"))
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(trial / "all")]
    done = subprocess.run([*as_root(_OWN_MOUNTS), *mount], capture_output=True, check=False)
    _run_as_root(["rm", "-rf", "--one-file-system", str(trial)])
    return "vfs" if done.returncode else "overlay"


def as_root(command: Sequence[str]) -> list[str]:
    if os.geteuid() == 0:
        return list(command)
    return ["sudo", "-n", "env", *(f"{name}={os.environ[name]}" for name in _PASSED_ON if name in os.environ), *command]


def _run_as_root(command: Sequence[str]) -> None:
    done = subprocess.run(as_root(command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepError(f"{command[0]} failed: {done.stderr.strip()}")


def mirrors() -> list[str]:
    """The file of this machine's own sources, where it runs the same Debian; else none: mmdebstrap knows Debian's."""
    release = Path("/etc/os-release")
    if not release.exists() or f"VERSION_CODENAME={SUITE}" not in release.read_text(encoding="utf-8"):
        return []
    files = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    return [str(file) for file in files if file.exists() and re.search(r"(?m)^(deb |Types:)", file.read_text(encoding="utf-8"))][
        :1
    ]


if __name__ == "__main__":
    sys.exit(main())
