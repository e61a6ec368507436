"""The benchmark: `./dev bench [GROUP...]`. Prints each figure's minimum, median and maximum.

Groups: commands, compiling, programming, datapath, cluster, real; without a name all but real. A group's part has a name of its
own: cluster is cluster_reaction, cluster_agent and cluster_operator. real has real nodes and needs root; it is left
out unless named. Nothing is judged: the aims stand beside the figures, and machines differ.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import import_module

from measure import HEADER, Figure, show

GROUPS = {
    "commands": ("commands",),
    "compiling": ("compiling",),
    "programming": ("programming",),
    "datapath": ("datapath",),
    "cluster": ("cluster_reaction", "cluster_agent", "cluster_operator"),
    "real": ("real_first_packet",),
}
ON_DEMAND = ("real",)
PARTS = {part: (part,) for parts in GROUPS.values() for part in parts}


def main(names: list[str]) -> int:
    known = {**PARTS, **GROUPS}
    unknown = [n for n in names if n not in known]
    if unknown:
        print(f"bench: no group {', '.join(unknown)}; there are {', '.join(dict.fromkeys([*GROUPS, *PARTS]))}", file=sys.stderr)
        return 2
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(HEADER)
    for part in (part for name in names or [g for g in GROUPS if g not in ON_DEMAND] for part in known[name]):
        figures: Callable[[], Iterator[Figure]] = import_module(part).figures
        show(figures())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
