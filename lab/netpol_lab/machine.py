"""Whether this machine lets an ordinary process make a lab, found out by trying, and what to do when it does not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from netpol_lab.control import kubernetes_bin
from netpol_lab.errors import LabError, LabForbidden, LabLacksPrograms

UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--net",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
_PACKAGES = {"ip": "iproute2", "bridge": "iproute2", "ipset": "ipset", "unshare": "util-linux", "openssl": "openssl"}
_TRIAL = "ip link add npctl0 type veth peer name npctl1 && mount -t tmpfs tmpfs /run && echo 1 > /proc/sys/net/ipv4/ip_forward"


def required_programs(backend: str, family: str, api: bool = False) -> tuple[str, ...]:
    """The programs that a lab calls, those of Kubernetes (see `kubernetes_bin`) excepted."""
    tables = {"ipv4": ["iptables"], "ipv6": ["ip6tables"], "dual": ["iptables", "ip6tables"]}.get(family, ["iptables"])
    return ("ip", "bridge", "ipset", "unshare", *(f"{t}-{backend}" for t in tables), *(["openssl"] if api else []))


def require_programs(backend: str = "nft", family: str = "ipv4", api: bool = False) -> None:
    """Raises LabLacksPrograms that names the missing programs and their Debian packages.

    `api`: also those of a lab with an API server.
    """
    missing = [p for p in required_programs(backend, family, api) if not _which(p)]
    if missing:
        raise LabLacksPrograms(
            f"the lab needs {_and(missing)}: install {' '.join(dict.fromkeys(_PACKAGES.get(p, 'iptables') for p in missing))}"
        )
    if api:
        kubernetes_bin.find()


def _which(program: str) -> str | None:
    # Ordinary users often lack the sbin folders in PATH, though they may run what is there.
    return shutil.which(program, path=search_path())


def search_path() -> str:
    """PATH with the system folders that hold the network's programs."""
    given = os.environ.get("PATH", "/usr/bin:/bin")
    return os.pathsep.join([given, *(p for p in ("/usr/local/sbin", "/usr/sbin", "/sbin") if p not in given.split(os.pathsep))])


def check() -> LabError | None:
    """Why a lab cannot run here; None when it can."""
    try:
        require_programs()
        done = subprocess.run(
            [*UNSHARE, "sh", "-c", _TRIAL], capture_output=True, text=True, timeout=10, env={**os.environ, "PATH": search_path()}
        )
    except LabError as error:
        return error
    except (OSError, subprocess.TimeoutExpired) as error:
        return LabError(f"trying namespaces failed: {error}")
    return None if done.returncode == 0 else explain_failure(done.stderr.strip())


def explain_failure(words: str) -> LabError:
    """What a failed start means: LabForbidden with a remedy where the machine forbids namespaces, else the words themselves."""
    last = words.splitlines()[-1] if words else "no reason given"
    if not any(w in words for w in ("unshare:", "Operation not permitted", "Permission denied", "RTNETLINK")):
        return LabError(f"the lab's supervisor ended at once: {last}")
    return LabForbidden(last, _remedy())


def _remedy() -> str:
    def setting(name: str) -> str:
        try:
            return Path("/proc/sys", name).read_text().strip()
        except OSError:
            return ""

    if setting("user/max_user_namespaces") == "0":
        return "`sysctl user.max_user_namespaces=15000` allows them"
    if setting("kernel/unprivileged_userns_clone") == "0":
        return "`sysctl kernel.unprivileged_userns_clone=1` allows them"
    if setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "`sysctl kernel.apparmor_restrict_unprivileged_userns=0` allows them"
    options = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    return f"in a container, `docker run {options}` (or --privileged) allows them"


def _and(words: Iterable[str]) -> str:
    return ", ".join(words)
