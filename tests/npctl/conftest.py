"""Running the command line in the test's own process, on YAML that the test writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from npctl.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRONMENT = ("-f", str(EXAMPLES / "nodes.yaml"), "-f", str(EXAMPLES / "environment.yaml"))


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("lint", "-f", "a.yaml")`; the current folder and the home are a new one, and there is no cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        out, err = capfd.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture
def case() -> Callable[[int], tuple[str, ...]]:
    """`case(8)`: the -f options of the walkthrough's environment with one case."""

    def options(number: int) -> tuple[str, ...]:
        (path,) = EXAMPLES.glob(f"case{number}-*.yaml")
        return (*ENVIRONMENT, "-f", str(path))

    return options


@pytest.fixture
def environment() -> tuple[str, ...]:
    return ENVIRONMENT
