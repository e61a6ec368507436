"""The simulator against the kernel: what save prints is read alike, and what the kernel refuses is refused."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from netpol_compiler.simulate import (
    MAX_DEPTH,
    check_sets,
    parse_ipset_restore,
    parse_iptables_restore,
    walk,
)
from simulated import SETS, nested, packet

TCP = packet()


# -- the kernel's own word ---------------------------------------------------------------------------

RULES = """\
*filter
:a - [0:0]
:b - [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A FORWARD -j MARK --set-xmark 0x0/0x40000
-A FORWARD -p tcp ! --syn -m set --match-set nets src -j DROP
-A FORWARD -s 10.0.0.1 -g a
-A a -p tcp --dport 80 -m comment --comment "p \\"q\\" -j DROP" -j b
-A a -p udp -m udp --dport 53: -j MARK --or-mark 0x1
-A a -p tcp -m multiport --dports 90,95:99 -m set ! --match-set ips dst -g b
-A a -m set --match-set ports dst,dst -g b
-A a -p icmp --icmp-type echo-request -j ACCEPT
-A a -m limit --limit 10/sec --limit-burst 20 -j NFLOG --nflog-group 5 --nflog-prefix "npc drop"
-A a -j DROP
-A b -j MARK --set-xmark 0x40000/0x40000
-A b -m mark --mark 0x40000/0x40000 -j RETURN
COMMIT
"""
PROGRAM = """
mount -t tmpfs none /run || exit 1
printf '%s' "$SETS" | ipset restore || exit 1
printf '%s' "$RULES" | iptables-$BACKEND-restore --noflush || exit 1
iptables-$BACKEND-save -c -t filter; echo ----; ipset save
"""
PROBES = [
    packet(f"{source} {destination} {protocol} {dport}", **changes)
    for source in ("10.0.0.1", "10.0.1.1", "11.0.0.1")
    for destination in ("10.0.0.2", "10.9.9.9")
    for protocol, dport in (("tcp", 80), ("tcp", 81), ("tcp", 97), ("udp", 53), ("udp", 52), ("sctp", 80), ("gre", 0))
    for changes in ({}, {"flags": frozenset({"ACK"})}, {"state": "ESTABLISHED"}, {"mark": 0x40002})
]


def load(backend: str, rules: str, sets: str = SETS) -> subprocess.CompletedProcess[str]:
    """Load rules and sets in a network namespace of their own, and save them again."""
    for needed in ("unshare", "ipset", f"iptables-{backend}-restore"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    if subprocess.run(["unshare", "-Urmn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    return subprocess.run(
        ["unshare", "-Urmn", "sh", "-c", PROGRAM],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SETS": sets, "RULES": rules, "BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_what_the_kernel_gives_back_walks_as_what_was_given_to_it(backend: str) -> None:
    loaded = load(backend, RULES)
    assert loaded.returncode == 0, loaded.stderr
    rules, _, sets = loaded.stdout.partition("----\n")
    given = parse_iptables_restore(RULES), parse_ipset_restore(SETS)
    saved = parse_iptables_restore(rules), parse_ipset_restore(sets)
    check_sets(*saved)
    assert {name: each.elements for name, each in saved[1].items()} == {name: each.elements for name, each in given[1].items()}
    for probe in PROBES:
        one, two = walk(*given, probe), walk(*saved, probe)
        assert (one.verdict, one.mark, [s[:2] for s in one.path]) == (two.verdict, two.mark, [s[:2] for s in two.path]), probe


@pytest.mark.kernel
@pytest.mark.parametrize("verb", ["-j", "-g"])
def test_the_kernel_refuses_one_chain_more_than_the_simulator_allows(verb: str) -> None:
    assert load("nft", nested(MAX_DEPTH, verb)).returncode == 0
    refused = load("nft", nested(MAX_DEPTH + 1, verb))
    assert refused.returncode != 0 and "Too many links" in refused.stderr
