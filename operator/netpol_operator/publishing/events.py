"""Events on a NetworkPolicy for what in it allows nothing: parts that were rejected, and parts that can never match.

One Event for each change of a policy. Its name is a hash of what it says, so that neither a restart nor a second replica says it
again while the first is still there. Events are for people: one that cannot be posted is dropped after a few tries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from netpol_compiler.model.objects import Key, Policy, Rejected
from netpol_compiler.policy.names import api_hash
from netpol_compiler.policy.never_matching import never_matches
from netpol_kube.client import ApiClient, ApiError, Json, KubeError
from netpol_operator.inputs.feed import ParsedPolicy

log = logging.getLogger("npctl.events")

REJECTED, NEVER_MATCHES = "Rejected", "NeverMatches"
MAX_MESSAGE_CHARACTERS = 1000
MAX_QUEUED_EVENTS = 1000
POST_TRIES, RETRY_SECONDS = 5, 2.0


class EventRecorder:
    """Posts what is worth an Event while `leading()`; `on_policy` may be called as often as a policy is handed over."""

    def __init__(self, client: ApiClient, identity: str, leading: Callable[[], bool]) -> None:
        self._client = client
        self._identity = identity
        self._leading = leading
        self._last: dict[Key, str] = {}
        self._queue: asyncio.Queue[tuple[Policy, str, str]] = asyncio.Queue(MAX_QUEUED_EVENTS)

    def on_policy(self, parsed: ParsedPolicy) -> None:
        """A policy was handed over."""
        policy = parsed.policy
        reason, message = event_of(policy, parsed.rejected)
        if self._last.get(policy.key, "") == message + policy.uid:
            return
        self._last[policy.key] = message + policy.uid
        if message and not self._queue.full():
            if self._leading():
                log.warning("policy %s: %s: %s", policy.key, reason, message)
            self._queue.put_nowait((policy, reason, message))

    def forget(self, key: Key) -> None:
        """A policy was deleted."""
        self._last.pop(key, None)

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            policy, reason, message = await self._queue.get()
            for _ in range(POST_TRIES):
                try:
                    if self._leading():
                        await self._post(policy, reason, message)
                        break
                except KubeError as error:
                    log.info("event on %s not posted: %s", policy.key, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _post(self, policy: Policy, reason: str, message: str) -> None:
        try:
            await self._client.create(f"/api/v1/namespaces/{policy.key.namespace}/events", self._event(policy, reason, message))
        except ApiError as error:
            # 404, 403: its namespace is deleted, or is being deleted.
            if not (error.already_exists or error.status in (403, 404)):
                raise

    def _event(self, policy: Policy, reason: str, message: str) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace, name = policy.key
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": namespace, "name": f"{name[:200]}.{api_hash([policy.uid, reason, message])}"},
            "involvedObject": {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "namespace": namespace,
                "name": name,
                "uid": policy.uid,
            },
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "npctl-operator"},
            "reportingComponent": "npctl.dev/operator",
            "reportingInstance": self._identity[:128],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def event_of(policy: Policy, rejected: tuple[Rejected, ...]) -> tuple[str, str]:
    """(reason, message) of the Event that a policy deserves; both empty when there is nothing to say."""
    parts = [f"{r.field}: {r.reason}" if r.path else r.reason for r in rejected]
    never = [f"{_field(policy, path)}: {reason}" for path, reason in never_matches(policy)]
    if not parts and not never:
        return "", ""
    message = "; ".join([*parts, *never])
    if parts:
        message = f"allows nothing by these parts, which were not understood: {message}"
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[: MAX_MESSAGE_CHARACTERS - 4] + " ..."
    return (REJECTED if parts else NEVER_MATCHES), message


def _field(policy: Policy, path: tuple[str | int, ...]) -> str:
    return Rejected("NetworkPolicy", policy.key.namespace, policy.key.name, path, "").field
