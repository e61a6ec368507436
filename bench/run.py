"""The benchmark: `./dev bench [GROUP...]`. Prints each figure's minimum, median and maximum.

Groups: commands, compiling, programming, datapath; without a name all of them. Nothing is judged: the aims stand
beside the figures, and machines differ.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import import_module

from measure import HEADER, Figure, show

GROUPS = ("commands", "compiling", "programming", "datapath")


def main(names: list[str]) -> int:
    unknown = [n for n in names if n not in GROUPS]
    if unknown:
        print(f"bench: no group {', '.join(unknown)}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(HEADER)
    for name in names or GROUPS:
        figures: Callable[[], Iterator[Figure]] = import_module(name).figures
        show(figures())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
