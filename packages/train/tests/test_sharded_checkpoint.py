"""A checkpoint in a folder, by one process: as a whole or not at all, and never code."""

import json
import os
import pickle
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scratch.train import ALONE, CheckpointError, ShardedSnapshot, load_sharded_checkpoint

# To import what torch has for this takes as long as all of these tests.
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

Parts = tuple[nn.Module, torch.optim.Optimizer]


def make(width: int = 4, seed: int = 0) -> Parts:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9))


def update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 3)).square().mean().backward()
    optimizer.step()


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    states = optimizer.state_dict()["state"].values()
    return [*model.state_dict().values(), *(t for state in states for t in state.values())]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "step"
    model, optimizer = make()
    for _ in range(3):
        update(model, optimizer)
    snapshot = ShardedSnapshot(ALONE)
    snapshot.take(model, optimizer, 3)
    update(model, optimizer)  # after the moment
    snapshot.save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "step")


@pytest.fixture
def fresh() -> Iterator[Parts]:
    """Return a model and its optimizer, which must be unchanged in the end."""
    model, optimizer = make(seed=1)
    update(model, optimizer)
    before = [tensor.clone() for tensor in everything(model, optimizer)]
    yield model, optimizer
    for tensor, old in zip(everything(model, optimizer), before, strict=True):
        assert torch.equal(tensor, old)


def rewrite(folder: Path, change: dict[str, Any]) -> None:
    """Change the manifest, and its own checksum with it."""
    path = folder / "checkpoint.json"
    manifest = {**json.loads(path.read_bytes()), **change}
    del manifest["crc32"]
    manifest["crc32"] = zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
    path.write_text(json.dumps(manifest))


def test_it_holds_the_moment_it_was_taken(saved: Path) -> None:
    model, optimizer = make()
    for _ in range(3):
        update(model, optimizer)
    other, its_optimizer = make(seed=1)
    its_optimizer.param_groups[0]["lr"] = 7.0
    assert load_sharded_checkpoint(saved, other, its_optimizer) == 3
    assert its_optimizer.param_groups[0]["lr"] == 0.1
    assert its_optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    update(model, optimizer)
    update(other, its_optimizer)
    for found, expected in zip(
        everything(other, its_optimizer), everything(model, optimizer), strict=True
    ):
        assert torch.equal(found, expected)


def test_the_model_is_read_without_an_optimizer(saved: Path) -> None:
    model, _ = make(seed=1)
    assert load_sharded_checkpoint(saved, model) == 3


def test_a_folder_is_replaced_as_a_whole(folder: Path) -> None:
    (folder / "old").touch()
    model, optimizer = make(seed=5)
    snapshot = ShardedSnapshot(ALONE)
    with pytest.raises(ValueError, match="take must be called before save"):
        snapshot.save(folder)
    for wrong in (-1, 0.5):
        with pytest.raises((ValueError, TypeError)):
            snapshot.take(model, optimizer, wrong)  # pyright: ignore[reportArgumentType]
    update(model, optimizer)
    snapshot.take(model, optimizer, 9)
    snapshot.save(folder)
    assert load_sharded_checkpoint(folder, *make()) == 9
    assert [path.name for path in folder.parent.iterdir()] == ["step"]
    assert not (folder / "old").exists()


def test_groups_must_hold_plain_values(tmp_path: Path) -> None:
    model, optimizer = make()
    update(model, optimizer)
    optimizer.param_groups[0]["what"] = object()
    snapshot = ShardedSnapshot(ALONE)
    snapshot.take(model, optimizer, 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        snapshot.save(tmp_path / "step")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["removed", "cut", "flipped", "emptied"])
def test_damage_is_told_before_anything_is_changed(
    folder: Path, fresh: Parts, name: str, damage: str
) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        middle = data.index(b"version") + 2 if name == "checkpoint.json" else len(data) // 2
        data[middle] ^= 1
        path.write_bytes(data)
    with pytest.raises(CheckpointError, match="step"):
        load_sharded_checkpoint(folder, *fresh)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "must be of a checkpoint that ShardedSnapshot wrote"),
        ({"version": 2}, "must have version 1, got 2"),
        ({"iteration": -1}, "must hold a number of updates, got -1"),
        ({"iteration": "3"}, "must hold a number of updates, got '3'"),
        ({"param_groups": 3}, "must hold the groups of an optimizer, got 3"),
        ({"param_groups": []}, "belongs to another optimizer"),
        ({"files": []}, "must be of a checkpoint that ShardedSnapshot wrote"),
        ({"files": {}}, "must name files of its own folder"),
        ({"files": {"x": 5}}, "x is missing"),
        ({"iteration": True}, "must hold a number of updates, got True"),
        ({"param_groups": [None]}, "belongs to another optimizer"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    folder: Path, fresh: Parts, change: dict[str, Any], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_sharded_checkpoint(folder, *fresh)


@pytest.mark.parametrize("change", [{"lr": "x"}, {"betas": 3}, {"betas": [0.9]}, {"amsgrad": 0}])
def test_values_of_a_group_are_of_their_kind(
    folder: Path, fresh: Parts, change: dict[str, Any]
) -> None:
    groups = json.loads((folder / "checkpoint.json").read_bytes())["param_groups"]
    rewrite(folder, {"param_groups": [{**groups[0], **change}]})
    with pytest.raises(CheckpointError, match=f"a group has no good {next(iter(change))}"):
        load_sharded_checkpoint(folder, *fresh)


def test_a_changed_number_in_the_manifest_is_damage(folder: Path, fresh: Parts) -> None:
    path = folder / "checkpoint.json"
    path.write_text(path.read_text().replace("0.8", "0.9", 1))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged"):
        load_sharded_checkpoint(folder, *fresh)


def test_another_model_is_refused_by_name(saved: Path) -> None:
    model, optimizer = make(width=5)
    with pytest.raises(CheckpointError, match=r"model\.0\.weight is \(4, 3\) .* is \(5, 3\)"):
        load_sharded_checkpoint(saved, model, optimizer)
    deeper = nn.Sequential(*make()[0], nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"no model\.2\.weight"):
        load_sharded_checkpoint(saved, deeper)
    with pytest.raises(CheckpointError, match=r"unknown model\.1\.weight"):
        load_sharded_checkpoint(saved, nn.Sequential(make()[0][0]))


def test_another_optimizer_is_refused(saved: Path) -> None:
    model, _ = make()
    with pytest.raises(CheckpointError, match="belongs to another"):
        load_sharded_checkpoint(saved, model, torch.optim.SGD(model.parameters(), momentum=0.9))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a file, and let the manifest say that this is what it should be."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "checkpoint.json").read_bytes())["files"]
    rewrite(folder, {"files": {**files, name: {"bytes": len(data), "crc32": zlib.crc32(data)}}})


def test_metadata_cannot_run_code(folder: Path, fresh: Parts, tmp_path: Path) -> None:
    put(folder, ".metadata", pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(CheckpointError, match=r"it names posix\.mkdir"):
        load_sharded_checkpoint(folder, *fresh)
    assert not (tmp_path / "boom").exists()


def test_values_cannot_run_code(folder: Path, fresh: Parts, tmp_path: Path) -> None:
    """Torch reads what is no tensor with `weights_only=False`; here there is no such thing."""
    import torch.distributed.checkpoint as dcp

    model, _ = fresh
    state: dict[str, Any] = {f"model.{name}": t for name, t in model.state_dict().items()}
    state["model.0.weight"] = Bomb(tmp_path / "boom")
    with pytest.warns(UserWarning, match="disabled"):
        dcp.save(state, checkpoint_id=tmp_path / "foreign", no_dist=True)
    for name in (".metadata", "__0_0.distcp"):
        put(folder, name, (tmp_path / "foreign" / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.0\.weight is a pickle"):
        load_sharded_checkpoint(folder, model)
    assert not (tmp_path / "boom").exists()


def test_metadata_names_files_of_its_own_folder(folder: Path, fresh: Parts) -> None:
    data = (folder / ".metadata").read_bytes()
    put(folder, ".metadata", data.replace(b"__0_0.distcp", b"../0_0.distc"))
    with pytest.raises(CheckpointError, match="must name files of its own folder"):
        load_sharded_checkpoint(folder, *fresh)
