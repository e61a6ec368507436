"""kubectl against one API server, for tests: what it must do, and what it must be refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from netpol_lab.control import kubernetes_bin
from until import until

Object = dict[str, object]


class Kubectl:
    """Runs kubectl with the kubeconfig `config`; `around` are words before it, such as nsenter and its options."""

    def __init__(self, config: Path, around: Iterable[str] = ()) -> None:
        self._command = [*around, str(kubernetes_bin.find().kubectl), f"--kubeconfig={config}"]

    def run(self, *arguments: str, objects: Iterable[Object] = ()) -> subprocess.CompletedProcess[str]:
        """Whatever comes of it. `objects` go to its input, which `-f -` reads."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return subprocess.run([*self._command, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)

    def __call__(self, *arguments: str, objects: Iterable[Object] = ()) -> str:
        """What it prints. Raises AssertionError with its complaint when it fails."""
        done = self.run(*arguments, objects=objects)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def items(self, *arguments: str) -> list[Any]:
        """The objects of `kubectl get ... -o json`."""
        found: list[Any] = json.loads(self("get", *arguments, "--output=json"))["items"]
        return found

    def refused(self, *arguments: str, objects: Iterable[Object] = ()) -> str:
        """What it complains of. Raises AssertionError when it does not fail."""
        done = self.run(*arguments, objects=objects)
        assert done.returncode != 0, f"kubectl {' '.join(arguments)} was accepted: {done.stdout}"
        return done.stderr

    def until(self, good: Callable[[], bool], what: str, seconds: float = 30) -> None:
        """Return as soon as `good` says so: what the API server has just accepted takes effect a moment later."""
        until(good, seconds, what)
