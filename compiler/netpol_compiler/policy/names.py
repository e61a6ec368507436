"""Names of IR objects, chains and sets: a readable stem and a hash of at least 80 bits over separated parts.

Separated means that ("a", "bc") and ("ab", "c") differ. Names carry no time and no counter: the same thing has
the same name in every process, so a restart renames nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from netpol_compiler.model.kinds import Family
from netpol_compiler.model.selectors import Operator, Selector
from netpol_compiler.policy.ir import SetKind, SetSpec

SCHEMA = 1
"""Version of the meaning of our sets; part of each set's name, because the kernel cannot change a set's type."""

CHAIN_LENGTH = 28
SET_LENGTH = 31
_KERNEL_HASH = 14  # base 58: 82 bits
_API_HASH = 16  # base 36: 82 bits; Kubernetes names have no capital letters
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def _number(parts: Sequence[object]) -> int:
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def _digits(number: int, alphabet: str, length: int) -> str:
    out = []
    for _ in range(length):
        number, digit = divmod(number, len(alphabet))
        out.append(alphabet[digit])
    return "".join(out)


def kernel_hash(parts: Sequence[object]) -> str:
    """14 characters (82 bits) that identify `parts` (nested sequences of text, numbers, None)."""
    return _digits(_number(parts), _BASE58, _KERNEL_HASH)


def api_hash(parts: Sequence[object]) -> str:
    """16 lower-case characters (82 bits) that identify `parts`: usable in a Kubernetes object's name."""
    return _digits(_number(parts), _BASE36, _API_HASH)


def _stem(text: str, room: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:room].rstrip("-") or "x"


def chain_name(kind: str, stem: str, parts: Sequence[object]) -> str:
    """`npc-<kind>-<stem>-<hash>`, 28 characters at most; `kind` also enters the hash."""
    head = f"npc-{kind}-"
    return f"{head}{_stem(stem, CHAIN_LENGTH - len(head) - _KERNEL_HASH - 1)}-{kernel_hash([kind, *parts])}"


def set_name(family: Family, ip_port: bool, stem: str, parts: Sequence[object]) -> str:
    """`npc4-n1-<stem>-<hash>`, 31 characters at most: family, type (n: hash:net, p: hash:ip,port), schema."""
    head = f"npc{int(family)}-{'p' if ip_port else 'n'}{SCHEMA}-"
    return f"{head}{_stem(stem, SET_LENGTH - len(head) - _KERNEL_HASH - 1)}-{kernel_hash([*parts])}"


class SetName(NamedTuple):
    """The name of an IR set in its parts: `a-<stem>-<hash>` for addresses, `e-...` for endpoints. The stem is for people."""

    kind: SetKind
    stem: str
    hash: str

    @property
    def text(self) -> str:
        return f"{self.kind.value[0]}-{self.stem}-{self.hash}"


def parse_set_name(text: str) -> SetName:
    """The parts of an IR set's name. A text that names no set of ours has an empty stem, and is taken for addresses."""
    head, _, rest = text.partition("-")
    stem, _, digest = rest.rpartition("-")
    return SetName(SetKind.ENDPOINT if head == SetKind.ENDPOINT.value[0] else SetKind.ADDRESS, stem, digest)


def address_set_name(spec: SetSpec) -> str:
    """The IR name of a spec; see `SetName`."""
    namespaces = None if spec.namespace_selector is None else spec.namespace_selector.canonical
    port = None if spec.named_port is None else [spec.named_port.protocol.value, spec.named_port.name]
    parts = [spec.kind.value, spec.namespace, namespaces, spec.pod_selector.canonical, port]
    return SetName(spec.kind, _stem(_spec_stem(spec), 20), api_hash(parts)).text


def _spec_stem(spec: SetSpec) -> str:
    """The most telling word of a selector: a wanted label value, else the namespace, else `all`."""
    for selector in (spec.pod_selector, spec.namespace_selector):
        value = _wanted_value(selector)
        if value:
            return value
    return spec.namespace or "all"


def _wanted_value(selector: Selector | None) -> str:
    for requirement in selector.requirements if selector else ():
        if requirement.operator is Operator.IN and requirement.values:
            return requirement.values[0]
        if requirement.operator is Operator.EXISTS:
            return requirement.key.rpartition("/")[2]
    return ""
