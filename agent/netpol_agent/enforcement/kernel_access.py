"""How this node's kernel is programmed, settled once at the start: backend, families, and what is wrong with either.

In: the backend that was asked for, or none. Out: a `KernelAccess`, or AgentError where nothing can be programmed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from netpol_agent.dataplane.backend import Backend, BackendKind, Detection, detect_backend, find_backend, self_test
from netpol_agent.dataplane.kernel_settings import load_modules
from netpol_agent.dataplane.runner import Runner
from netpol_agent.errors import AgentError
from netpol_compiler.model.kinds import FAMILIES, Family

log = logging.getLogger("agent")


@dataclass(frozen=True, slots=True)
class KernelAccess:
    """`families`: those that can be programmed; `problems`: what stays wrong as long as the agent runs."""

    backend: Backend
    families: tuple[Family, ...]
    problems: tuple[str, ...]


def kernel_access(kind: BackendKind | None, run: Runner) -> KernelAccess:
    """`kind` None: detect. Loads the modules that are needed. Raises AgentError when IPv4 cannot be programmed."""
    load_modules(run)
    detected = detect_backend(run) if kind is None else Detection(kind, "set by --backend")
    log.info("backend %s: %s", detected.kind.value, detected.why)
    backend = find_backend(detected.kind)
    problems = {family: self_test(backend, family, run) for family in FAMILIES}
    if problems[Family.V4]:
        raise AgentError(
            f"this node cannot match sets in iptables-{backend.kind.value}: {problems[Family.V4]}",
            "the agent needs NET_ADMIN and the kernel's ip_set, xt_set and conntrack modules",
        )
    refused = (f"IPv6 cannot be filtered on this node: {problems[Family.V6]}",) if problems[Family.V6] else ()
    chosen = (detected.problem,) if detected.problem else ()
    return KernelAccess(backend, tuple(f for f in FAMILIES if not problems[f]), (*chosen, *refused))
