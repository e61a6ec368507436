"""Credentials of a kubeconfig that only a plugin can give (`exec`, `auth-provider`), through the kubernetes library.

In: the kubeconfig's paths and a context. Out: the Authorization header, fresh whenever it is asked for, or a client certificate.
The library takes half a second and 40 MB to import, so that it is imported here alone, and only when a user has a plugin.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from netpol_kube.errors import CredentialsError
from netpol_kube.kubeconfig import read_text


@dataclass(frozen=True, slots=True)
class Handed:
    """What a plugin gave. `header` is asked before each request and runs the plugin again when its token has expired."""

    header: Callable[[], str]
    certificate: str
    key: str


def ask(paths: Sequence[Path], context: str) -> Handed:
    """Run the plugin. Raises CredentialsError in the plugin's words when it gives nothing."""
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_kube_config

    configuration = Configuration()
    problems = _Problems()
    logging.getLogger().addHandler(problems)
    try:
        load_kube_config(os.pathsep.join(map(str, paths)), context, configuration, persist_config=False)
        header = _header(configuration)
    except (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # The library names an entry of a kubeconfig by its whole content, tokens and all.
        raise CredentialsError(f"its plugin failed ({type(error).__name__})") from error
    finally:
        logging.getLogger().removeHandler(problems)
    certificate, key = (read_text(Path(f)) if f else "" for f in (configuration.cert_file, configuration.key_file))
    if not header and not certificate:
        raise CredentialsError(f"its plugin gave no credentials: {'; '.join(problems.lines) or 'and no reason'}")

    def fresh() -> str:
        try:
            return _header(configuration)
        except Exception as error:  # whatever a plugin's refresh may raise, a request must not end in a traceback
            raise CredentialsError(f"the plugin of context {context!r} failed ({type(error).__name__})") from error

    return Handed(fresh, certificate, key)


def _header(configuration: object) -> str:
    settings: dict[str, dict[str, str]] = configuration.auth_settings()  # type: ignore[attr-defined]
    return next((s["value"] for s in settings.values() if s["key"].lower() == "authorization" and s["value"]), "")


class _Problems(logging.Handler):
    """The library logs why a plugin failed, and goes on without credentials."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.getMessage().splitlines()[:1]
