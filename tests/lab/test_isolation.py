"""A lab touches nothing of the machine, shares nothing with another lab, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from host import host_state, is_zombie, processes_of
from netpol_lab import client as client_module
from netpol_lab import machine
from netpol_lab.client import LabClient
from netpol_lab.errors import LabError, LabForbidden, LabMissing
from until import until

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("network", ["host-gw", "vxlan", "routed"])
def test_the_machine_is_the_same_before_during_and_after(start: Callable[..., LabClient], network: str) -> None:
    before = host_state()
    lab = start(network=network, family="dual")
    lab.matrix()
    during = host_state()
    lab.down()
    assert during == before
    assert host_state() == before


def test_two_labs_side_by_side_do_not_see_each_other(start: Callable[..., LabClient]) -> None:
    one, two = start("one"), start("two", network="routed")
    assert client_module.labs() == ("one", "two")
    assert two.exec("node/172.31.7.111", ["iptables-nft", "-I", "FORWARD", "-j", "DROP"]) == 0
    assert {r["verdict"] for r in one.connect("linux/client", "python/tomcat-1", "8080/tcp")} == {"allowed"}
    assert {r["verdict"] for r in two.connect("linux/client", "python/tomcat-1", "8080/tcp", limit=0.2)} == {"refused"}
    two.down()
    assert one.is_up()
    assert not two.folder.exists()


ENDINGS = [("starter", signal.SIGKILL), ("supervisor", signal.SIGKILL), ("supervisor", signal.SIGTERM)]


@pytest.mark.parametrize(("who", "how"), ENDINGS, ids=lambda part: getattr(part, "name", part))
def test_a_killed_supervisor_leaves_nothing(start: Callable[..., LabClient], who: str, how: signal.Signals) -> None:
    before = host_state()
    lab = start()
    starter = int((lab.folder / "pid").read_text())
    children = Path(f"/proc/{starter}/task/{starter}/children").read_text().split()
    os.kill(starter if who == "starter" else int(children[0]), how)
    until(lambda: not lab.is_up(), 10, "the lab is down")
    until(lambda: processes_of(lab.folder), 10, "only zombies", good=lambda left: all(map(is_zombie, left)))
    assert host_state() == before
    with pytest.raises(LabMissing):
        lab.status()
    assert client_module.labs() == ()
    assert not lab.folder.exists()
    lab.up(_small(), agents=False)
    assert lab.is_up()


def _small() -> list[dict[str, object]]:
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "c"}]}}]


def test_a_failed_start_leaves_nothing(lab_folder: Path) -> None:
    lab = LabClient("broken")
    wrong = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"nodeName": "n", "containers": "none"}}]
    with pytest.raises(LabError, match="containers"):
        lab.up(wrong, agents=False)
    assert not lab.folder.exists()
    until(lambda: processes_of(lab.folder), 10, "no process is left", good=lambda left: not left)


def test_a_second_start_says_that_the_lab_is_up(start: Callable[..., LabClient]) -> None:
    lab = start()
    with pytest.raises(LabError, match="is up already"):
        lab.up([], agents=False)
    assert lab.is_up()


def test_long_folders_and_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCTL_LAB_DIR", str(tmp_path / ("long" * 30)))
    lab = LabClient("a" * 40)
    lab.up(_small(), agents=False)
    assert lab.down()
    for name in ("", "../x", "A", "a" * 41, "-a"):
        with pytest.raises(LabError, match="lab's name"):
            LabClient(name)


def test_forbidden_namespaces_are_said_in_one_line_with_a_remedy(lab_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inside a user namespace whose own limit is 0 nobody can make another: a machine that forbids them.
    forbid = (
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"',
        "sh",
    )
    monkeypatch.setattr(machine, "UNSHARE", (*forbid, *machine.UNSHARE))
    error = machine.check()
    assert isinstance(error, LabForbidden)
    assert "\n" not in str(error)
    assert error.reason and error.remedy
    with pytest.raises(LabForbidden):
        LabClient("forbidden").up(_small(), agents=False)
    assert not LabClient("forbidden").folder.exists()
