"""AddressSet, the custom resource: one slice of one set of the IR. Pure.

    /apis/npctl.dev/v1alpha1/addresssets/SETNAME.SLICE

The wire form is the object's `spec` (`api_objects.document_of` reads it). The labels are for watches, and no reader of the
IR needs them.
"""

from __future__ import annotations

from collections.abc import Iterable

from netpol_api.api_objects import Json
from netpol_api.kinds import ADDRESS_SET, GROUP
from netpol_api.spans import span_labels
from netpol_compiler.policy.slices import slice_name

SET_LABEL = f"{GROUP}/set"
"""Names the set that an object is a slice of."""


def address_set_path(name: str, index: int) -> str:
    """The path of slice `index` of the set `name`."""
    return ADDRESS_SET.path(name=slice_name(name, index))


def address_set_object(document: Json, buckets: Iterable[int]) -> Json:
    """An AddressSet from one slice's wire form (wire.slice_to_wire), for the nodes of these buckets."""
    return {
        "apiVersion": ADDRESS_SET.api_version,
        "kind": ADDRESS_SET.kind,
        "metadata": {
            "name": slice_name(document["name"], document["slice"]),
            "labels": {SET_LABEL: document["name"], **span_labels(buckets)},
        },
        "spec": document,
    }
