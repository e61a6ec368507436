"""Which iptables this node uses, where its programs are, and whether they can do what we need.

In: the programs found, what they print. Out: a `Backend`, chosen once at start and pinned. Excluded: writing rules.
Mixing the two backends is the field's classic: rules in the other one are invisible, and both are in force.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from netpol_agent.dataplane.runner import Runner
from netpol_agent.errors import AgentError
from netpol_compiler.model.kinds import FAMILIES, Family
from netpol_compiler.ruleset.changes import AppendRule, CreateSet, DeclareChain, DeleteChain
from netpol_compiler.ruleset.render import sets_text, table_text
from netpol_compiler.ruleset.rules import End, SetMatch, Verdict, rule
from netpol_compiler.ruleset.values import CHAIN_PREFIX, set_prefix

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
"""An ordinary user's PATH often lacks the sbin folders."""

LOCK_SECONDS = 10

STARTED_AHEAD = frozenset({"iptables-nft-restore", "ip6tables-nft-restore"})
"""For `Processes`. The legacy programs rewrite their whole table, beside which their start is nothing."""


class BackendKind(str, Enum):
    NFT = "nft"
    LEGACY = "legacy"

    @property
    def other(self) -> BackendKind:
        return BackendKind.LEGACY if self is BackendKind.NFT else BackendKind.NFT


@dataclass(frozen=True, slots=True)
class Backend:
    """Absolute paths of the programs of one backend. Per family: `list_`, `restore` and `save` of iptables."""

    kind: BackendKind
    list_: Mapping[Family, str]
    restore: Mapping[Family, str]
    save: Mapping[Family, str]
    ipset: str

    def restore_command(self, family: Family) -> list[str]:
        """Never without --noflush: the table belongs to everybody."""
        return [self.restore[family], "--noflush", "-w", str(LOCK_SECONDS)]


def find_program(name: str, package: str) -> str:
    """The path of a program. Raises AgentError that names the package to install."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise AgentError(f"{name} is not installed", f"install the package {package}: apt-get install {package}")
    return path


def find_backend(kind: BackendKind) -> Backend:
    """The programs of `kind`. Raises AgentError when one is missing."""
    stem = {Family.V4: f"iptables-{kind.value}", Family.V6: f"ip6tables-{kind.value}"}

    def each(suffix: str) -> dict[Family, str]:
        return {f: find_program(stem[f] + suffix, "iptables") for f in FAMILIES}

    return Backend(kind, each(""), each("-restore"), each("-save"), find_program("ipset", "ipset"))


@dataclass(frozen=True, slots=True)
class Detection:
    """The chosen backend and why; `problem` is set when the node uses both."""

    kind: BackendKind
    why: str
    problem: str = ""


def detect_backend(run: Runner) -> Detection:
    """What this node uses: the backend that holds Kubernetes' chains, else the one that holds any rules, else what
    plain `iptables` is. Only reads, and only tables that exist (see `all_saved`)."""
    paths = {kind: shutil.which(f"iptables-{kind.value}-save", path=SEARCH_PATH) for kind in BackendKind}
    texts = {kind: all_saved(path, run) if path else "" for kind, path in paths.items()}
    for words, weight in (("Kubernetes' chains", _kube_chains), ("rules", _rules)):
        counts = {kind: weight(text) for kind, text in texts.items()}
        if any(counts.values()):
            best = max(BackendKind, key=lambda kind: counts[kind])
            both = all(counts.values())
            problem = f"both iptables backends hold {words}; {best.value} has more and was chosen" if both else ""
            return Detection(best, f"{counts[best]} {words} are in iptables-{best.value}", problem)
    version = run([find_program("iptables", "iptables"), "-V"]).out
    kind = BackendKind.LEGACY if "legacy" in version else BackendKind.NFT
    return Detection(kind, f"no rules anywhere; plain iptables is {kind.value}")


def all_saved(save: str, run: Runner) -> str:
    """What the program `save` prints of every table that exists, so that looking creates and loads none.

    In namespaces of an ordinary user the legacy program may not read which tables exist; there the two that matter
    are asked for by name, and an empty one comes into being, which is all that can be done.
    """
    done = run([save])
    if done.ok or "Permission denied" not in done.err:
        return done.out
    return "".join(run([save, "-t", table]).out for table in ("filter", "nat"))


def _kube_chains(text: str) -> int:
    return sum(line.startswith(":KUBE-") for line in text.splitlines())


def _rules(text: str) -> int:
    return sum(line.startswith("-A ") for line in text.splitlines())


def self_test(backend: Backend, family: Family, run: Runner) -> str:
    """Whether a rule with a set match can be programmed. Returns the complaint, empty when all is well."""
    name, chain = f"{set_prefix(family)}self-test", f"{CHAIN_PREFIX}self-test"
    try:
        done = run([backend.ipset, "restore"], sets_text([CreateSet(name, "hash:net", family)]))
        if not done.ok:
            return f"ipset: {done.words}"
        matching = rule(SetMatch(name, (End.SOURCE,)), action=Verdict.RETURN)
        done = run(backend.restore_command(family), table_text([DeclareChain(chain), AppendRule(chain, matching)]))
        return "" if done.ok else f"{os.path.basename(backend.restore[family])}: {done.words}"
    finally:
        run(backend.restore_command(family), table_text([DeclareChain(chain), DeleteChain(chain)]))
        run([backend.ipset, "destroy", name])  # nft may still hold it for a moment; then it is removed as a stale set
