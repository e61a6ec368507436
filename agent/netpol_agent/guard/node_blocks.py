"""The addresses of which every one belongs to a pod of this node: what its Node object says, asked until it says it.

In: the API server. Out: `blocks`, for the gate. Read once: Kubernetes never changes a node's podCIDRs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from netpol_api.kinds import NODE
from netpol_compiler.model.addresses import Network, parse_network
from netpol_kube.backoff import Backoff
from netpol_kube.client import ApiClient
from netpol_kube.errors import KubeError

log = logging.getLogger("agent")

_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 30.0


class NodeBlocks:
    """`run` in the background; `blocks` is empty until the Node has some."""

    def __init__(self, node: str, client: ApiClient) -> None:
        self.blocks: tuple[Network, ...] = ()
        """The node's own pod addresses."""
        self._path = NODE.path(name=node)
        """Of the Node object."""
        self._client = client
        """Asks."""

    async def run(self) -> None:
        """Ask until the Node has blocks."""
        backoff = Backoff(_RETRY_SECONDS, _LONGEST_RETRY_SECONDS, jitter=0.5)
        while not self.blocks:
            try:
                self.blocks = blocks_of(await self._client.get(self._path))
            except KubeError as error:
                log.warning("the node's blocks cannot be read: %s", error)
            if not self.blocks:
                await asyncio.sleep(backoff.next_seconds())


def blocks_of(node: Mapping[str, Any]) -> tuple[Network, ...]:
    """spec.podCIDRs of a Node, or spec.podCIDR of an older one; what is no block is passed over."""
    spec = node.get("spec")
    if not isinstance(spec, dict):
        return ()
    texts = spec.get("podCIDRs") or [spec.get("podCIDR")]
    found = []
    for text in texts if isinstance(texts, list) else ():
        try:
            found.append(parse_network(text)[0] if isinstance(text, str) else None)
        except ValueError:
            continue
    return tuple(block for block in found if block is not None)
