"""What the restore programs refuse, the simulator refuses: it may know less than they do, and never more."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from isolated import forbidden
from netpol_compiler.model.kinds import Family
from netpol_compiler.simulate import SimulateError, check_sets, parse_ipset_restore, parse_iptables_restore
from simulated import SETS, filter_table

pytestmark = pytest.mark.kernel

RULES = r"""
-p tcp --dport 8_0 -j DROP
-p tcp --dport +80 -j DROP
-p tcp --dport 080 -j DROP
-p tcp --dport "" -j DROP
-p tcp --dport : -j DROP
-p tcp --dport http -j DROP
-p icmp --icmp-type 300 -j DROP
-p icmp --icmp-type 8/300 -j DROP
-p icmp --icmp-type echo-request/0 -j DROP
-m mark --mark 0b1 -j DROP
-m mark --mark 1_0 -j DROP
-m mark --mark 0x1_0 -j DROP
-m mark --mark 010 -j DROP
-m mark --mark 0x1/ -j DROP
-m mark --mark -1 -j DROP
-m limit --limit banana -j DROP
-m limit --limit 10/sec --limit-burst x -j DROP
-m limit --limit 0/sec -j DROP
-m limit -j DROP
-m limit ! --limit 10/sec -j DROP
-j REJECT --reject-with nothing
-j REJECT --reject-with tcp-reset
-p tcp -j REJECT --reject-with tcp-reset
-j REJECT --reject-with icmp6-no-route
-j NFLOG --nflog-group 70000
-j NFLOG --nflog-group x
-j NFLOG --nflog-group -1
-j LOG --log-level 9
-j LOG --log-level loud
! -p all -j DROP
-p all -j DROP
-p 0 -j DROP
-p tcp -p udp -j DROP
-p tcp -m multiport --dports 80 --sports 81 -j DROP
-p tcp -m multiport --ports 80 --dports 81 -j DROP
-p tcp -m multiport --dports , -j DROP
-p tcp -m multiport --dports 80, -j DROP
-p tcp -m multiport --dports 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15 -j DROP
-p tcp -m multiport --dports 90:80 -j DROP
-p icmp -m multiport --dports 80 -j DROP
-m comment ! --comment x -j DROP
-m comment --comment "" -j DROP
-m conntrack --ctstate NEW,,RELATED -j DROP
-m conntrack --ctstate new -j DROP
-m conntrack --ctstate "" -j DROP
-m conntrack --ctstate SNAT -j DROP
-m state --state UNTRACKED -j DROP
-m set --match-set nets SRC -j DROP
-m set --match-set nets src,dst,src -j DROP
-m set --match-set nets "" -j DROP
-m set --match-set nets src -m set ! --match-set ips dst -j DROP
-s 10.0.0.1/ -j DROP
-s 10.0.0/24 -j DROP
-s fd00::1 -j DROP
-s 10.0.0.1 -s 10.0.0.2 -j DROP
-i "" -j DROP
-i thisinterfacenameistoolong -j DROP
-i + -j DROP
-o eth0 -o eth1 -j DROP
-p tcp --tcp-flags SYN -j DROP
-p tcp --tcp-flags SYN SYN,ACK -j DROP
-p tcp --tcp-flags syn SYN -j DROP
-p tcp --syn --tcp-flags SYN SYN -j DROP
-p TCP --dport 80 -j DROP
-p Tcp -j DROP
-p udp --syn -j DROP
-p udp -m udp --dport 80 -m tcp --dport 81 -j DROP
-p tcp -m udp -j DROP
-j MARK --set-mark 0x100000000
-j MARK --set-mark 1 --set-xmark 2
-j MARK --and-mark 0x1/0x1
-j MARK --or-mark 1/1
-j MARK --set-xmark banana
-j ACCEPT --foo
-g DROP
-g ACCEPT
-j drop
-j "DROP"
-j DROP junk
-f -j DROP
-4 -j DROP
-c 1 2 -j DROP
-m tcp -p tcp -j DROP
-m tcp -j DROP
-m icmp6 --icmpv6-type 128 -j DROP
-p icmpv6 -m icmp6 --icmpv6-type 128 -j DROP
-p 6 --dport 80 -j DROP
-p 17 -m udp --dport 53 -j DROP
-p 132 -m sctp --dport 53 -j DROP
-p udplite -m udp --dport 53 -j DROP
-m multiport --dports 80 -j DROP
-m mark --mark 0x1 -m mark --mark 0x2 -j DROP
-m mark --mark 0x1 --mark 0x2 -j DROP
-d 10.0.0.1/255.255.255.0 -j DROP
--ctstate NEW -j DROP
-m conntrack --state NEW -j DROP
"""
"""Odd ends of rules: values just beyond what is allowed, forms that only look like numbers, options that exclude each other."""

LINES = """
add ips 10.9.9.1 timeout 5
add ips 10.9.9.1 comment "x"
add ips 10.9.9.1 packets 5
add ips 10.9.9.1 bytes 5
add ips 10.9.9.1/31
add ips 10.9.9.1/32
add ips 10.9.9.01
add ips 0.0.0.0
add nets 10.1.0.0/0
add nets 10.1.0.0/33
add nets 10.1.2.3/16
add nets 10.0.0.0/8
add nets 10.0.0.0/8 nomatch
add nets 10.0.0.0/8 nomatch -exist
add nets fd00::/8
add ports 10.0.0.3,80
add ports 10.0.0.3,tcp:http
add ports 10.0.0.3,tcp:8_0
add ports 10.0.0.3,tcp:0
add ports 10.0.0.3,tcp:
add ports 10.0.0.3,tcp:90-80
add ports 10.0.0.3,tcp:80-90
add ports 10.0.0.3,udplite:80
add ports 10.0.0.3,icmp:echo-request
add ports 10.0.0.3,icmp:8
add ports 10.0.0.3,tcp:80 nomatch
add ports 10.0.0.0/30,tcp:80
add netports 10.0.0.0/24,tcp:80
add netports 10.0.0.0/24,tcp:83 nomatch
add netports 0.0.0.0/0,tcp:83
add six ::/0
add six fd00::1
add six 10.0.0.1
del ips 10.9.9.9 comment
del nets 10.0.1.0/24
del nets 10.0.1.0/24 nomatch
del netports 10.0.0.0/24,tcp:80-82
flush nothing
flush ips
destroy nothing
destroy ips
create a hash:ip
create a hash:ip maxelem 0
create a hash:ip maxelem 5x
create a hash:ip maxelem 5_0
create a hash:ip hashsize x
create a hash:ip hashsize 64
create a hash:ip timeout x
create a hash:ip timeout 60
create a hash:ip counters comment
create a hash:ip colour
create a hash:ip family inet7
create a hash:ip family
create a hash:net,net family inet
create a list:set
create a hash:ip,port,ip
create nets hash:net family inet
create nets hash:net family inet -exist
create nets hash:ip family inet -exist
create nets hash:net family inet6 -exist
create nets hash:net family inet maxelem 1048576 -exist
create nets hash:net family inet maxelem 5 -exist
swap nets ports
swap nets six
swap nets nothing
rename nets other
test nets 10.0.0.1
add
add nets
create
create x
add nets 10.2.0.0/16 extra
COMMIT
commit
-A nets 10.3.0.0/16
add nets 10.4.0.0-10.4.0.255
add ips 10.9.0.1-10.9.0.3
add nets 10.5.0.0/16 10.6.0.0/16
"""
"""Odd lines of ipset restore, each on top of SETS."""

EACH_RULE = """
mount -t tmpfs none /run && printf '%s' "$SETS" | ipset restore || exit 9
while IFS= read -r rule; do
  printf '*filter\\n:a - [0:0]\\n-A FORWARD %s\\nCOMMIT\\n' "$rule" | iptables-$BACKEND-restore --noflush 2>/dev/null; echo $?
done
"""
EACH_LINE = """
mount -t tmpfs none /run || exit 9
while IFS= read -r line; do
  ipset destroy; printf '%s' "$SETS" | ipset restore || exit 9
  printf '%s\\n' "$line" | ipset restore 2>/dev/null; echo $?
done
"""


def words(text: str) -> list[str]:
    return text.strip("\n").splitlines()


def by_programs(script: str, lines: list[str], backend: str = "") -> list[bool]:
    """Whether the restore programs take each line, asked in a network namespace of its own."""
    if reason := forbidden():
        pytest.skip(reason)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SETS": SETS, "BACKEND": backend}
    command = ["unshare", "-Urmn", "sh", "-c", script]
    done = subprocess.run(
        command, input="\n".join([*lines, ""]), env=env, capture_output=True, text=True, timeout=100, check=True
    )
    answers = [code == "0" for code in done.stdout.split()]
    assert len(answers) == len(lines), done.stderr
    return answers


def takes(parse: Callable[[], object]) -> bool:
    try:
        parse()
    except SimulateError:
        return False
    return True


def takes_rule(rule: str) -> bool:
    text = filter_table(f"-A FORWARD {rule}", chains="a")
    return takes(lambda: check_sets(parse_iptables_restore(text, family=Family.V4), parse_ipset_restore(SETS)))


def takes_line(line: str) -> bool:
    return takes(lambda: parse_ipset_restore(f"{line}\n", parse_ipset_restore(SETS)))


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_no_rule_is_taken_that_iptables_restore_refuses(backend: str) -> None:
    rules = words(RULES)
    taken = by_programs(EACH_RULE, rules, backend)
    assert [rule for rule, good in zip(rules, taken, strict=True) if not good and takes_rule(rule)] == []
    assert sum(good and takes_rule(rule) for rule, good in zip(rules, taken, strict=True)) > 10, "some are good"


def test_no_line_is_taken_that_ipset_restore_refuses() -> None:
    lines = words(LINES)
    taken = by_programs(EACH_LINE, lines)
    assert [line for line, good in zip(lines, taken, strict=True) if not good and takes_line(line)] == []
    assert sum(good and takes_line(line) for line, good in zip(lines, taken, strict=True)) > 10, "some are good"
