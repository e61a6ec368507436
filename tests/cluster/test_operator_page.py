"""docs/contributing/operator-on-your-cluster.md: its commands, in their order, do what the page says."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from required import kubernetes_programs

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "docs" / "contributing" / "operator-on-your-cluster.md"
PORT = "127.0.0.1:9435"
LAST = "npctl lab down"

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the commands print, one after the other; they end at the first that fails."""
    binaries = kubernetes_programs()
    place = tmp_path_factory.mktemp("page")
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))
    # The port is the one thing on this machine that another test could hold.
    script = "\n".join(blocks).replace(PORT, f"127.0.0.1:{_free_port()}")
    environment = os.environ | {
        "NPCTL_LAB_DIR": str(place / "labs"),
        "NPCTL_KUBERNETES_BIN": str(binaries.kubectl.parent),
        "TMPDIR": str(place),
        "KUBECONFIG": str(place / "none"),
    }
    # What it starts in the background ends with it, wherever it fails, and would otherwise hold the pipes of its output open.
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    out, errors = place / "out", place / "errors"
    try:
        with out.open("w") as stdout, errors.open("w") as stderr:
            done = subprocess.run(command, cwd=TOP, env=environment, stdout=stdout, stderr=stderr, timeout=240, check=False)
    finally:
        subprocess.run(
            [sys.executable, "-m", "npctl", "lab", "down"], env=environment, capture_output=True, timeout=60, check=False
        )
    logs = "".join(f"--- {log.name}\n{log.read_text(encoding='utf-8')}" for log in place.glob("tmp.*/*.log"))
    assert done.returncode == 0, f"{out.read_text(encoding='utf-8')}\n{errors.read_text(encoding='utf-8')}\n{logs}"
    assert not list(place.glob("tmp.*")), "the page removes its files"
    return out.read_text(encoding="utf-8")


def test_the_page_names_the_test_and_ends_with_nothing_left() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"tests/cluster/{Path(__file__).name}" in text
    assert text.index(LAST) > text.index("npctl agent cleanup\n")


def test_the_operator_of_the_checkout_compiles_with_the_charts_rights(told: str) -> None:
    assert re.search(r"compiledpolicy\.npctl\.dev/tomcat-access--networkpolicy +Ingress +1 +1 +0/1 ", told)
    assert re.search(r"INFO npctl\.election: \S+ leads\n", told)


def test_the_agent_of_the_checkout_enforces_it(told: str) -> None:
    assert len(re.findall(r"networkpolicy python/tomcat-access--networkpolicy is in force on 1 node", told)) == 2
    assert re.search(r"python/python-nginx-\S+ .* 8080/tcp .* allowed +answered by", told)
    assert re.search(r"python/net-test-\S+ .* 8080/tcp .* refused +none\nrefused, as the policy has it\n", told)
    assert re.search(r"(?m)^allowed: python/python-nginx-", told)
    assert "-A npc-forward -j npc-ingress" in told or "-A npc-forward -g npc-ingress" in told


def test_nothing_is_left(told: str) -> None:
    assert re.search(r"(?m)^removed \d+ chains and \d+ sets$", told)
    assert told.endswith("lab default is down\n")
