"""Settings of the kernel outside the tables: bridged packets must pass iptables, and modules that must be there.

In: /proc. Out: problems in words; what may be set is set.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from netpol_agent.dataplane.backend import SEARCH_PATH
from netpol_agent.dataplane.runner import Runner
from netpol_compiler.model.kinds import Family

_BRIDGE = {
    Family.V4: Path("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    Family.V6: Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
}
_REMEDY = "run: modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1"


def load_modules(run: Runner) -> None:
    """Try to load what may be missing; where that is not allowed, `kernel_problems` says what is missing."""
    program = shutil.which("modprobe", path=SEARCH_PATH)
    if program and not _BRIDGE[Family.V4].exists():
        run([program, "-q", "br_netfilter"])
    if program and not Path("/proc/sys/net/netfilter").exists():
        run([program, "-q", "nf_conntrack"])


def kernel_problems(families: tuple[Family, ...]) -> tuple[str, ...]:
    """Set what is allowed; return what is not as it must be. Cheap: reads a few files."""
    problems = []
    for family in families:
        path = _BRIDGE[family]
        try:
            if path.read_text(encoding="ascii").strip() == "1":
                continue
            path.write_text("1\n", encoding="ascii")
        except FileNotFoundError:
            problems.append(
                f"br_netfilter is not loaded: pods that share a bridge reach each other UNFILTERED (IPv{int(family)}); " + _REMEDY
            )
        except OSError as error:
            problems.append(
                f"{path.name} is off and cannot be set ({error.strerror}): pods that share a bridge reach each other UNFILTERED; "
                + _REMEDY
            )
    if not Path("/proc/sys/net/netfilter/nf_conntrack_max").exists():
        problems.append("nf_conntrack is not loaded: replies cannot be told from new connections; run: modprobe nf_conntrack")
    return tuple(problems)
