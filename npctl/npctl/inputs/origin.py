"""Where a command's answers come from: files when -f is given, and the live cluster when not.

In: the options -f, -n, -A, --kubeconfig, --context. Out: a `State`, and the namespace that names without one mean. With files,
nothing is asked of any cluster; the modules that could ask one are not even imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from npctl.errors import usage

if TYPE_CHECKING:
    from npctl.inputs.live import Live
    from npctl.inputs.state import State

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """The options that choose where to look, as given."""

    files: tuple[str, ...] = ()
    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    all_namespaces: bool = False

    def check(self) -> None:
        """Raises CommandError for options that contradict each other."""
        if self.files and (self.kubeconfig or self.context):
            raise usage("-f means files alone: --kubeconfig and --context have no place beside it", "leave out one of the two")


class Opened(NamedTuple):
    """`namespace` is what a name without one means; `chosen` limits lists (None: all namespaces). `live` None: files."""

    state: State
    namespace: str
    chosen: str | None
    live: Live | None


def open_origin(origin: Origin, *, tolerant: bool = False, quiet: bool = False) -> Opened:
    """Read it. `tolerant` and `quiet` as in `state.load`. Raises CommandError."""
    origin.check()
    if origin.files:
        from npctl.inputs.state import load

        state = load(list(origin.files), tolerant=tolerant, quiet=quiet)
        return Opened(state, origin.namespace or DEFAULT_NAMESPACE, None if origin.all_namespaces else origin.namespace, None)
    from npctl.cluster.api import Access
    from npctl.inputs import live

    found = live.read(Access(origin.kubeconfig, origin.context), quiet=quiet)
    namespace = origin.namespace or found.api.namespace
    return Opened(found.state, namespace, None if origin.all_namespaces else namespace, found)
