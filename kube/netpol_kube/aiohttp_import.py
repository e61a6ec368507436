"""aiohttp, imported without the machine's certificate authorities.

aiohttp reads all of them twice while it is imported, 60 ms of a command's start, for connections whose caller names no TLS
settings. Ours always name some (`Credentials.tls`), which read the authorities where a kubeconfig has none of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks for authorities, if set."""


@contextmanager
def _without_authorities() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _PLACES}
    os.environ.update(dict.fromkeys(_PLACES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _without_authorities():
    import aiohttp

__all__ = ["aiohttp"]
