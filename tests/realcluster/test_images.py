"""Images without a registry: archives that containerd takes, of programs that this machine has."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from netpol_lab.errors import LabError
from netpol_realcluster import plan
from netpol_realcluster.nodes import images


def _image(folder: Path) -> images.Image:
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return images.Image(
        "example.test/a:1", {"bin/program": program}, {"Entrypoint": ["/bin/program"]}, {"bin/link": "program"}, folders=("tmp",)
    )


def test_an_archive_names_the_image_and_its_one_layer_by_what_is_in_it(tmp_path: Path) -> None:
    images.write(_image(tmp_path), tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        parts = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    (manifest,) = json.loads(parts["manifest.json"])
    config = json.loads(parts[manifest["Config"]])
    assert manifest["RepoTags"] == ["example.test/a:1"]
    assert config["config"] == {"Entrypoint": ["/bin/program"]}
    layer = parts[manifest["Layers"][0]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as inner:
        members = {member.name: member for member in inner}
        assert (members["bin/program"].mode, members["bin/link"].linkname, members["tmp"].mode) == (0o755, "program", 0o1777)
        assert {(member.uid, member.mtime) for member in inner} == {(0, 0)}


def test_the_same_programs_give_the_same_archive(tmp_path: Path) -> None:
    for name in ("one.tar", "two.tar"):
        images.write(_image(tmp_path), tmp_path / name)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


@pytest.mark.parametrize("number", [0, plan.MOST_NODES + 1])
def test_a_number_of_nodes_that_cannot_be_is_refused(number: int) -> None:
    with pytest.raises(LabError, match=f"1 to {plan.MOST_NODES} nodes, not {number}"):
        plan.make_plan(number, "flannel-vxlan")
