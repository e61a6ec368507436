"""The program itself: help, what it imports, colours, completion, and how errors end it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any

import pytest

COMMANDS = ["explain", "trace", "matrix", "lint", "diff", "compile", "status", "wait", "lab", "operator", "agent"]
LIST_MODULES = """
import sys
from npctl.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    print("@", *sys.modules)
"""
LAB = ["up", "apply", "delete", "label", "get", "connect", "matrix", "exec", "down", "list", "status", "run"]


def start(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m npctl` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "npctl", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **env},
        check=False,
    )


def test_help_names_every_command_and_the_exit_codes(cli: Any) -> None:
    out = cli("--help").out
    assert all(f"  {name} " in out for name in COMMANDS) and "Exit codes: 0 yes, 1" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(cli: Any, name: str) -> None:
    assert cli(name, "--help").code == 0


@pytest.mark.parametrize("name", LAB)
def test_every_lab_command_has_help(cli: Any, name: str) -> None:
    assert cli("lab", name, "-h").code == 0


def _imported(*words: str) -> set[str]:
    """Top-level modules that a run of npctl imports."""
    code = LIST_MODULES
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=env, check=True)
    return {name.partition(".")[0] for name in done.stdout.rpartition("@")[2].split()}


def test_help_imports_nothing_that_is_slow() -> None:
    assert not _imported("--help") & {"rich", "netaddr", "yaml", "netpol_compiler", "netpol_lab", "kubernetes", "kopf"}


def test_explain_imports_neither_rich_nor_lab_nor_agent(environment: tuple[str, ...]) -> None:
    imported = _imported("explain", "pod/python-nginx", "-n", "python", *environment)
    assert "netpol_compiler" in imported
    assert not imported & {"rich", "netpol_lab", "netpol_agent", "netpol_operator", "kubernetes", "urllib3", "kopf", "asyncio"}


def test_no_colours_into_a_pipe(environment: tuple[str, ...]) -> None:
    assert "\x1b" not in start("matrix", *environment).stdout


def _on_a_terminal(*words: str, **env: str) -> str:
    """What npctl writes when its output is a terminal."""
    leader, follower = pty.openpty()
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TERM": "xterm", **env}
    variables = {k: v for k, v in variables.items() if v}
    process = subprocess.Popen([sys.executable, "-m", "npctl", *words], stdout=follower, stderr=follower, env=variables)
    os.close(follower)
    text = b""
    try:
        while part := os.read(leader, 65536):
            text += part
    except OSError:
        pass  # Linux ends a terminal without writers by an error, not by an empty read
    process.wait()
    os.close(leader)
    return text.decode()


@pytest.mark.slow
def test_colours_on_a_terminal_unless_they_are_refused(environment: tuple[str, ...]) -> None:
    assert "\x1b[" in _on_a_terminal("matrix", *environment, NO_COLOR="")
    assert "\x1b" not in _on_a_terminal("matrix", *environment, NO_COLOR="1")
    assert "\x1b" not in _on_a_terminal("matrix", *environment, "--no-color", NO_COLOR="")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_offers_the_commands(shell: str) -> None:
    variables = {"_NPCTL_COMPLETE": f"complete_{shell}", "COMP_WORDS": "npctl ma", "COMP_CWORD": "1"}
    variables |= {"_TYPER_COMPLETE_ARGS": "npctl ma", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert "matrix" in start(**variables).stdout


def test_a_closed_pipe_is_no_error(environment: tuple[str, ...]) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-m", "npctl", "compile", "--node", "172.31.7.113", *environment],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0
    process.stderr.close()


def test_the_version_is_told(cli: Any) -> None:
    assert cli("--version").out.startswith("npctl ")
