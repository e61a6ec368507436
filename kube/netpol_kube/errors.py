"""What can go wrong with a request to the API server, in words that a log or a terminal can take."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]


class KubeError(Exception):
    """Base of all that can go wrong with a request."""


class ApiUnreachable(KubeError):
    """No answer: connection refused, reset, or silent. `reason` is the cause alone, in words."""

    def __init__(self, request: str, reason: str) -> None:
        self.reason = _one_line(reason)
        super().__init__(f"{request}: {self.reason}")


class CredentialsError(Exception):
    """No usable credentials; `remedy` says what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(what)


class ProtocolError(KubeError):
    """An answer that is no JSON or lacks what the API promises."""


class ApiError(KubeError):
    """The API server's own refusal: HTTP `status`, the Status object's `reason` and `message`, both as one line each that any
    log or terminal can take: JSON can carry line ends, terminal commands and halves of characters. `answer` is the Status object
    itself; empty when something else answered, such as a proxy or the agent behind it."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0, answer: Json | None = None) -> None:
        reason, message = _one_line(reason), _one_line(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.answer = answer or {}
        super().__init__(f"{status} {reason}: {message}" if reason else f"{status}: {message}")

    @property
    def is_not_found(self) -> bool:
        return self.status == 404

    @property
    def is_forbidden(self) -> bool:
        return self.status == 403

    @property
    def is_conflict(self) -> bool:
        """Somebody else has written it meanwhile."""
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def already_exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def is_gone(self) -> bool:
        """The resourceVersion or continue token is too old."""
        return self.status == 410

    @property
    def is_passing(self) -> bool:
        """Worth trying again: the server is overloaded, starting or stopping."""
        return self.status == 429 or self.status >= 500


def reason_of(error: BaseException) -> str:
    """Why no answer came: `connection refused`, and not what every layer has wrapped around it."""
    for layer in reversed([*_layers(error)]):
        if isinstance(status := getattr(layer, "status", None), int):  # not in its own words, which hold the proxy's password
            return f"the proxy answered {status} {getattr(layer, 'message', '')}".strip()
        if isinstance(layer, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {layer.verify_message}"
        if isinstance(layer, ssl.SSLError) and layer.reason == "WRONG_VERSION_NUMBER":
            return "it does not speak TLS there"
        if isinstance(layer, TimeoutError):
            return "no answer in time"
        if isinstance(layer, socket.gaierror):
            return "its name cannot be resolved" if layer.errno == socket.EAI_AGAIN else "its name is not known"
        if isinstance(layer, OSError) and layer.errno in _REASONS:
            return _REASONS[layer.errno]
    return (str(error).splitlines() or [type(error).__name__])[0]


_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "the connection was reset",
    errno.EPIPE: "the connection was reset",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
}


def _layers(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
