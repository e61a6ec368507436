"""The cluster's DNS: CoreDNS as a Deployment behind a Service, as clusters have it.

In: nothing but the plan's names and addresses. Out: objects to apply; when its pod is ready, the cluster's names are answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from netpol_realcluster import plan
from netpol_realcluster.nodes import images

NAMESPACE, NAME = "kube-system", "coredns"
_OBJECTS = Path(__file__).with_suffix(".yaml")


def objects(beyond: str = "") -> list[Mapping[str, Any]]:
    """What makes names work. `beyond`: the address of a server to ask for names of the world beyond this cluster."""
    text = Template(_OBJECTS.read_text(encoding="utf-8"))
    values = {"domain": plan.DOMAIN, "address": plan.DNS_ADDRESS.text, "image": images.COREDNS}
    values["beyond"] = f"forward . {beyond}" if beyond else ""
    return [document for document in yaml.safe_load_all(text.substitute(values)) if document]
