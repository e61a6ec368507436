"""The operator between two folders: order, restarts, slices, and what it does with objects it cannot read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netpol_compiler.policy import wire
from netpol_operator.folder import FolderOperator
from netpol_operator.publishing.folder_publisher import FolderPublisher
from netpol_store.folder import FolderReader, FolderWriter, read_revision


class World:
    """A folder of objects and an operator on it."""

    def __init__(self, tmp: Path) -> None:
        self.objects, self.ir = tmp / "objects", tmp / "ir"
        self.writer = FolderWriter(self.objects)
        self.operator = FolderOperator(self.objects, self.ir)
        self.reader = FolderReader(self.ir)

    def put(self, kind: str, namespace: str, name: str, **body: Any) -> None:
        data = {"metadata": {"name": name, "namespace": namespace, **body.pop("metadata", {})}, **body}
        if kind == "NetworkPolicy":
            data["apiVersion"] = "networking.k8s.io/v1"
        self.writer.write(f"{kind}/{namespace or '_'}/{name}.json", json.dumps({"kind": kind, **data}).encode())

    def pod(self, name: str, address: str, **labels: str) -> None:
        self.put(
            "Pod", "a", name, metadata={"labels": labels}, spec={"nodeName": "n1"}, status={"phase": "Running", "podIP": address}
        )

    def policy(self, name: str, peer: str) -> None:
        rule = {"from": [{"podSelector": {"matchLabels": {"app": peer}}}]}
        self.put("NetworkPolicy", "a", name, spec={"podSelector": {}, "ingress": [rule]})

    def step(self) -> bool:
        self.writer.commit()
        return self.operator.step()

    def members(self) -> list[str]:
        return sorted(m for f in self.ir.glob("addresssets/*.json") for m in json.loads(f.read_bytes())["members"])

    def files(self) -> set[str]:
        return {str(f.relative_to(self.ir)) for f in self.ir.rglob("*.json")} - {"revision.json"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_nothing_is_published_before_the_objects_are_complete(world: World) -> None:
    world.policy("p", "web")
    assert not world.operator.step() and not world.files()
    assert world.step() and len(world.files()) == 2


def test_the_revision_names_the_objects_it_covers(world: World) -> None:
    world.policy("p", "web")
    world.step()
    assert read_revision(world.ir) == {"revision": 1, "objects_revision": 1, "schema": 1}
    world.step()
    assert read_revision(world.ir)["objects_revision"] == 2


def test_pods_come_and_go_in_the_sets_of_the_policies(world: World) -> None:
    world.policy("p", "web")
    world.pod("w1", "10.0.0.1", app="web")
    world.step()
    assert world.members() == ["10.0.0.1"]
    world.pod("w1", "10.0.0.1", app="other")
    world.pod("w2", "10.0.0.2", app="web")
    world.step()
    assert world.members() == ["10.0.0.2"]


def test_sets_are_there_before_the_policies_that_name_them_and_leave_after(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    for name in ("write", "remove"):
        real = getattr(FolderWriter, name)

        def spy(self: FolderWriter, relative: str, *rest: bytes, real: Any = real) -> bool:
            done = bool(real(self, relative, *rest))
            policies = [
                wire.policy_from_wire(wire.from_bytes(f.read_bytes())) for f in world.ir.glob("compiledpolicies/*/*.json")
            ]
            named = {name for p in policies for name in p.set_names}
            seen.append(all((world.ir / f"addresssets/{name}.0.json").exists() for name in named))
            return done

        monkeypatch.setattr(FolderWriter, name, spy)
    world.policy("p", "web")
    world.step()
    world.policy("p", "other")
    world.step()
    world.writer.remove("NetworkPolicy/a/p.json")
    world.step()
    assert len(seen) > 5 and all(seen) and not world.files()


def test_a_restart_writes_nothing_that_is_right_and_removes_what_nobody_wants(world: World) -> None:
    world.policy("p", "web")
    world.policy("q", "gone")
    world.pod("w1", "10.0.0.1", app="web")
    world.step()
    before = {f: (world.ir / f).stat().st_ino for f in world.files()}
    world.writer.remove("NetworkPolicy/a/q.json")
    world.writer.commit()
    assert FolderOperator(world.objects, world.ir).step()
    after = {f: (world.ir / f).stat().st_ino for f in world.files()}
    assert len(before) == 4 and len(after) == 2
    assert all(before[f] == inode for f, inode in after.items())


def test_an_object_that_cannot_be_read_keeps_its_last_good_state(world: World) -> None:
    world.policy("p", "web")
    world.pod("w1", "10.0.0.1", app="web")
    world.step()
    world.writer.write("Pod/a/w1.json", b"{half a")
    world.step()
    assert world.members() == ["10.0.0.1"]


def test_point_15_a_policy_with_a_part_that_is_not_understood_is_published_closed(world: World) -> None:
    world.put("NetworkPolicy", "a", "p", spec={"podSelector": {}, "ingress": [{"from": [{"clusterSelector": {}}]}]})
    world.step()
    policy = wire.policy_from_wire(wire.from_bytes((world.ir / "compiledpolicies/a/p.json").read_bytes()))
    assert policy.directions and policy.rejected
    assert not any(rule.peers is None or rule.peers.sets or rule.peers.blocks for rule in policy.rules)


def test_one_pods_change_rewrites_one_slice(world: World) -> None:
    world.policy("p", "web")
    for i in range(2500):
        world.pod(f"w{i}", f"10.0.{i // 250}.{i % 250}", app="web")
    world.step()
    world.reader.scan()
    assert len([f for f in world.files() if f.startswith("addresssets")]) == 3
    world.writer.remove("Pod/a/w1200.json")
    world.step()
    assert len(world.reader.scan().changed) == 1 and len(world.members()) == 2499
    # The free place is taken by the next one: no other slice moves.
    world.pod("new", "10.9.9.9", app="web")
    world.step()
    assert len(world.reader.scan().changed) == 1 and len(world.members()) == 2500


def test_slices_join_to_the_set_and_a_missing_slice_is_noticed(world: World) -> None:
    world.policy("p", "web")
    for i in range(1001):
        world.pod(f"w{i}", f"10.0.{i // 250}.{i % 250}", app="web")
    world.step()
    documents = [wire.from_bytes(f.read_bytes()) for f in world.ir.glob("addresssets/*.json")]
    assert len(wire.slices_from_wire(documents).members) == 1001
    with pytest.raises(wire.WireError, match="1 slices of 2"):
        wire.slices_from_wire(documents[:1])


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"nonsense", b'{"schema": 2}', b'{"schema": 1}', b'{"schema": 1, "namespace": 3}', b"[" * 100000]
)
def test_hostile_wire_bytes_are_an_error_never_a_policy(content: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.policy_from_wire(wire.from_bytes(content))


def test_a_publisher_survives_garbage_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "addresssets").mkdir()
    (tmp_path / "addresssets/x.0.json").write_bytes(b"garbage")
    from netpol_compiler.policy.ir import IRDelta

    FolderPublisher(tmp_path).publish(IRDelta(), 1)
    assert not (tmp_path / "addresssets/x.0.json").exists()
