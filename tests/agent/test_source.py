"""What an agent reads from folders: unknown is never empty, and a removal needs a commit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builders import address, pod, policy
from netpol_agent.inputs.folder_source import FolderSource
from netpol_compiler.model.objects import Cluster, Key
from netpol_compiler.model.selectors import label_selector
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import IR, AddressSet, SetSpec
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_store.folder import FolderWriter


def pod_json(name: str, host: str, node: str = "n1") -> bytes:
    status = {"phase": "Running", "podIP": host, "podIPs": [{"ip": host}]}
    metadata = {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name}}
    return json.dumps({"kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}, "status": status}).encode()


def compiled() -> IR:
    p = policy("shop", "p", {"app": "a"})
    return compile_cluster(Cluster(policies={p.key: p}))


def policy_bytes() -> bytes:
    return wire.to_bytes(wire.policy_to_wire(compiled().policies[Key("shop", "p")]))


def slices(*parts: tuple[str, ...]) -> list[bytes]:
    spec = SetSpec(None, None, label_selector(app="a"))
    members = [[address(text) for text in part] for part in parts]
    value = AddressSet("a-set", spec, frozenset(m for part in members for m in part))
    return [wire.to_bytes(wire.slice_to_wire(value, i, len(parts), part)) for i, part in enumerate(members)]


class Folders:
    def __init__(self, root: Path) -> None:
        self.objects, self.ir = FolderWriter(root / "objects"), FolderWriter(root / "ir")
        self.source = FolderSource("n1", root / "objects", root / "ir")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_is_complete_only_when_both_folders_were_committed(folders: Folders) -> None:
    folders.objects.write("Pod/shop/a.json", pod_json("a", "10.0.0.1"))
    folders.source.changes()
    assert not folders.source.complete
    folders.objects.commit()
    folders.source.changes()
    assert not folders.source.complete
    folders.ir.commit()
    folders.source.changes()
    assert folders.source.complete


def test_only_pods_of_this_node_are_taken_and_one_that_moves_away_goes(folders: Folders) -> None:
    folders.objects.write("Pod/shop/a.json", pod_json("a", "10.0.0.1"))
    folders.objects.write("Pod/shop/b.json", pod_json("b", "10.0.0.2", "n2"))
    folders.objects.commit()
    assert folders.source.changes().pods_up == (pod("shop", "a", "10.0.0.1", app="a", uid="a", created=""),)
    folders.objects.write("Pod/shop/a.json", pod_json("a", "10.0.0.1", "n2"))
    folders.objects.commit()
    assert folders.source.changes().pods_down == (Key("shop", "a"),)


def test_a_removal_counts_only_when_a_commit_announces_it(folders: Folders) -> None:
    folders.ir.write("compiledpolicies/shop/p.json", policy_bytes())
    folders.ir.commit()
    assert len(folders.source.changes().policies_up) == 1
    folders.ir.remove("compiledpolicies/shop/p.json")
    assert folders.source.changes().policies_down == ()
    assert "vanished without a commit" in folders.source.problems[0]
    folders.ir.commit()
    assert folders.source.changes().policies_down == (Key("shop", "p"),)
    assert folders.source.problems == ()


def test_a_folder_that_vanishes_takes_nothing_out_of_force(folders: Folders) -> None:
    folders.objects.write("Pod/shop/a.json", pod_json("a", "10.0.0.1"))
    folders.ir.write("compiledpolicies/shop/p.json", policy_bytes())
    folders.objects.commit()
    folders.ir.commit()
    folders.source.changes()
    shutil.rmtree(folders.objects.root)
    shutil.rmtree(folders.ir.root)
    delta = folders.source.changes()
    assert (delta.pods_down, delta.policies_down, delta.ir_revision) == ((), (), 1)
    assert len(folders.source.problems) == 2


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema": 99}', b'{"schema": 1}'], ids=["cut", "list", "newer", "empty"])
def test_what_is_not_understood_keeps_its_last_good_state_and_is_a_problem(folders: Folders, content: bytes) -> None:
    folders.ir.write("compiledpolicies/shop/p.json", policy_bytes())
    folders.ir.write("addresssets/a-set.0.json", slices(("10.0.0.1",))[0])
    folders.ir.commit()
    folders.source.changes()
    folders.ir.write("compiledpolicies/shop/p.json", content)
    folders.ir.write("addresssets/a-set.0.json", content)
    folders.ir.commit()
    delta = folders.source.changes()
    assert (delta.policies_up, delta.policies_down, delta.sets_up, delta.sets_down) == ((), (), (), ())
    assert len(folders.source.problems) == 2
    folders.ir.write("compiledpolicies/shop/p.json", policy_bytes())
    folders.ir.write("addresssets/a-set.0.json", slices(("10.0.0.1",))[0])
    folders.ir.commit()
    delta = folders.source.changes()
    assert (len(delta.policies_up), len(delta.sets_up)) == (1, 1)
    assert folders.source.problems == ()


def test_slices_are_merged_and_an_incomplete_set_keeps_its_last_good_state(folders: Folders) -> None:
    first, second = slices(("10.0.0.1",), ("10.0.0.2",))
    folders.ir.write("addresssets/a-set.0.json", first)
    folders.ir.commit()
    assert folders.source.changes().sets_up == ()
    assert "1 slices of 2" in folders.source.problems[0]
    folders.ir.write("addresssets/a-set.1.json", second)
    folders.ir.commit()
    (merged,) = folders.source.changes().sets_up
    assert {m.text for m in merged.members} == {"10.0.0.1", "10.0.0.2"}
    folders.ir.write("addresssets/a-set.0.json", slices(("10.0.0.3",))[0])
    folders.ir.remove("addresssets/a-set.1.json")
    folders.ir.commit()
    (merged,) = folders.source.changes().sets_up
    assert {m.text for m in merged.members} == {"10.0.0.3"}
    folders.ir.remove("addresssets/a-set.0.json")
    folders.ir.commit()
    assert folders.source.changes().sets_down == ("a-set",)
