"""Container images made of programs of this machine, where there is no registry to pull them from.

In: programs. Out: one Docker archive for each image, which containerd imports. The same programs give the same archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAUSE = "registry.k8s.io/pause:3.10"
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
"""As Kubernetes' own tests call it."""
BUSYBOX = "docker.io/library/busybox:1.35"
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
_SYSTEM_BUSYBOX = "/bin/busybox"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ACCOUNTS = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUPS = "root:x:0:\nnogroup:x:65534:\n"


@dataclass(frozen=True, slots=True)
class Image:
    """`programs`: path in the image to path on this machine; `links`: path to what it points to; `texts`: path to content."""

    name: str
    programs: Mapping[str, Path]
    config: Mapping[str, Any]
    links: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


def pause(programs: Path) -> Image:
    """What holds a pod's namespaces."""
    return Image(PAUSE, {"pause": programs / "pause"}, {"Entrypoint": ["/pause"], "User": "65535:65535"})


def images(programs: Path) -> tuple[Image, ...]:
    """What pods may run besides `pause`, of the nodes' programs in `programs` and this machine's busybox."""
    busybox = shell()
    # What pods of the suite ask of it besides: a shell, wget, nslookup and their like, and where to put uploads.
    agnhost = Image(
        AGNHOST,
        {"agnhost": programs / "agnhost", **busybox.programs},
        {"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "Env": [_PATH]},
        {**busybox.links, "agnhost-2": "agnhost"},
        busybox.texts,
        (*busybox.folders, "uploads"),
    )
    coredns = Image(COREDNS, {"coredns": programs / "coredns"}, {"Entrypoint": ["/coredns"]})
    return coredns, agnhost, busybox


def shell(name: str = BUSYBOX) -> Image:
    """A busybox without libraries, with all its names."""
    names = subprocess.run([_SYSTEM_BUSYBOX, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    links = {name: "/bin/busybox" for name in names if name != "bin/busybox"}
    texts = {"etc/passwd": _ACCOUNTS, "etc/group": _GROUPS}
    return Image(name, {"bin/busybox": Path(_SYSTEM_BUSYBOX)}, {"Cmd": ["sh"], "Env": [_PATH]}, links, texts, ("tmp",))


def write(image: Image, archive: Path) -> None:
    """Write the image as a Docker archive of one layer."""
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        _fill(tar, image)
    with open(layer, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(image.config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    config = json.dumps(described).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [image.name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, config_name, config)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        tar.add(layer, "layer.tar", filter=_anonymous)
    layer.unlink()


def _fill(tar: tarfile.TarFile, image: Image) -> None:
    for folder in sorted({*image.folders, *_parents(image)}):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder in image.folders else 0o755
        tar.addfile(entry)
    for path, program in image.programs.items():
        tar.add(program, path, filter=_anonymous)
    for path, target in image.links.items():
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
        tar.addfile(entry)
    for path, text in image.texts.items():
        _add(tar, path, text.encode())


def _parents(image: Image) -> set[str]:
    paths = [Path(p) for p in (*image.programs, *image.links, *image.texts)]
    return {str(parent) for path in paths for parent in path.parents if parent != Path(".")}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.mode & 0o111 else 0o644
    return entry
