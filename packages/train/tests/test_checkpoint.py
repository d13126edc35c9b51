"""A checkpoint brings everything back; what is not one is refused, and nothing is touched."""

import contextlib
import errno
import io
import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scratch.train import CheckpointError, load_checkpoint, save_checkpoint


def trained(
    *,
    seed: int = 0,
    width: int = 3,
    bias: bool = True,
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW,
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model and an optimizer that have seen two updates."""
    model = nn.Linear(4, width, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    optimizer = kind(model.parameters(), lr=0.1)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    for _ in range(2):
        model(torch.randn(5, 4, generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def values(state: Any) -> Any:
    """Return the state of a model or an optimizer as numbers that can be compared."""
    if isinstance(state, Tensor):
        return (str(state.dtype), state.tolist())
    if isinstance(state, dict):
        return {key: values(value) for key, value in state.items()}
    return [values(value) for value in state] if isinstance(state, list) else state


def content(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": values(model.state_dict()), "optimizer": values(optimizer.state_dict())}


def saved_by_torch(something: object) -> bytes:
    file = io.BytesIO()
    torch.save(something, file)
    return file.getvalue()


def checkpoint(iteration: int = 7, **model: Any) -> bytes:
    file = io.BytesIO()
    save_checkpoint(*trained(**model), iteration, file)
    return file.getvalue()


def altered(**changes: Any) -> bytes:
    """Return a good checkpoint with other entries."""
    return saved_by_torch(torch.load(io.BytesIO(checkpoint()), weights_only=True) | changes)


def check_refused(data: bytes, path: Path, message: str) -> None:
    path.write_bytes(data)
    model, optimizer = trained(seed=1)
    before = content(model, optimizer)
    with pytest.raises(CheckpointError, match=rf"(?s){re.escape(str(path))}.*{message}"):
        load_checkpoint(path, model, optimizer)
    with pytest.raises(CheckpointError, match=rf"(?s)the file.*{message}"):
        load_checkpoint(io.BytesIO(data), model, optimizer)
    assert content(model, optimizer) == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.pt"


# --- there and back


def save_and_load(out: Any, src: Any) -> None:
    model, optimizer = trained(seed=0)
    save_checkpoint(model, optimizer, 7, out)
    other, its_optimizer = trained(seed=1)
    assert content(other, its_optimizer) != content(model, optimizer)
    if isinstance(src, io.BytesIO):
        src.seek(0)
    assert load_checkpoint(src, other, its_optimizer) == 7
    assert content(other, its_optimizer) == content(model, optimizer)


@pytest.mark.parametrize("kind", [Path, str])
def test_everything_comes_back_from_a_path(path: Path, kind: Callable[[Path], Any]) -> None:
    save_and_load(kind(path), kind(path))
    assert list(path.parent.iterdir()) == [path]


def test_everything_comes_back_from_memory() -> None:
    file = io.BytesIO()
    save_and_load(file, file)


def test_everything_comes_back_from_an_open_file(path: Path) -> None:
    with path.open("w+b") as file:
        model, optimizer = trained()
        save_checkpoint(model, optimizer, 7, file)
        file.seek(0)
        other, its_optimizer = trained(seed=1)
        assert load_checkpoint(file, other, its_optimizer) == 7
    assert content(other, its_optimizer) == content(model, optimizer)


def test_a_model_comes_back_alone(path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(model, optimizer, 7, path)
    other, _ = trained(seed=1)
    assert load_checkpoint(path, other) == 7
    assert values(other.state_dict()) == values(model.state_dict())


def test_a_checkpoint_before_the_first_update_is_one(path: Path) -> None:
    model = nn.Linear(4, 3)
    save_checkpoint(model, torch.optim.AdamW(model.parameters()), 0, path)
    assert load_checkpoint(path, *trained()) == 0


def test_saving_changes_nothing(path: Path) -> None:
    model, optimizer = trained()
    before = content(model, optimizer)
    save_checkpoint(model, optimizer, 7, path)
    assert content(model, optimizer) == before


def test_loading_does_not_tie_the_model_to_a_file_or_to_another(path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(model, optimizer, 7, path)
    other, its_optimizer = trained(seed=1)
    load_checkpoint(path, other, its_optimizer)
    before = content(other, its_optimizer)
    path.write_bytes(bytes(path.stat().st_size))
    for p in model.parameters():
        p.data.zero_()
    assert content(other, its_optimizer) == before


def test_a_later_checkpoint_takes_the_place_of_an_earlier_one(path: Path) -> None:
    for iteration in (7, 8):
        save_checkpoint(*trained(seed=iteration), iteration, path)
    model, optimizer = trained()
    assert load_checkpoint(path, model, optimizer) == 8
    assert content(model, optimizer) == content(*trained(seed=8))
    assert list(path.parent.iterdir()) == [path]


def test_tensors_keep_their_type(path: Path) -> None:
    model = nn.ModuleDict({"wide": nn.Linear(2, 2).double(), "narrow": nn.Linear(2, 2).bfloat16()})
    model.register_buffer("counts", torch.arange(3))
    save_checkpoint(model, torch.optim.SGD(model.parameters()), 1, path)
    other = nn.ModuleDict({"wide": nn.Linear(2, 2).double(), "narrow": nn.Linear(2, 2).bfloat16()})
    other.register_buffer("counts", torch.zeros(3, dtype=torch.int64))
    load_checkpoint(path, other, torch.optim.SGD(other.parameters()))
    assert values(other.state_dict()) == values(model.state_dict())


def test_a_negative_iteration_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="iteration must not be negative, got -1"):
        save_checkpoint(*trained(), -1, path)
    assert list(path.parent.iterdir()) == []


# --- files that are none


def test_an_empty_file_is_refused(path: Path) -> None:
    check_refused(b"", path, "empty, cut short")


@pytest.mark.parametrize("fortieths", range(1, 40))
def test_a_file_cut_short_is_refused(path: Path, fortieths: int) -> None:
    data = checkpoint()
    check_refused(data[: len(data) * fortieths // 40], path, "cut short")


@pytest.mark.parametrize("missing_bytes", [1, 2, 21, 22, 23, 100])
def test_a_file_that_lacks_its_end_is_refused(path: Path, missing_bytes: int) -> None:
    check_refused(checkpoint()[:-missing_bytes], path, "cut short")


FOREIGN = {
    "text": b"Once upon a time there was a file.\n" * 40,
    "zeros": bytes(4096),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "archive": b"PK\x03\x04" + bytes(200),
    "pickled number": pickle.dumps(5, protocol=2),
    "pickled dictionary": pickle.dumps({"model": {}, "iteration": 3}, protocol=2),
    "tensor": saved_by_torch(torch.ones(3)),
    "list": saved_by_torch([1, 2]),
    "dictionary": saved_by_torch({"iteration": 3, "model": {}, "optimizer": {}}),
    "weights": saved_by_torch(trained()[0].state_dict()),
    "whole model": saved_by_torch(trained()[0]),
}


FOREIGN |= {
    # Beginnings of pickles: the instructions want what is not there.
    f"instruction {start!r}": start
    for start in (b"(.", b"q.", b"K", b"G", b"M", b"0", b"Ghello world")
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused(path: Path, kind: str) -> None:
    check_refused(FOREIGN[kind], path, "must (be|hold)")


def test_a_damaged_file_is_refused_or_complete() -> None:
    data, chance = checkpoint(), random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] = chance.randrange(256)
        try:
            load_checkpoint(io.BytesIO(damaged), *trained(seed=1))
        except CheckpointError:
            refused += 1
    # A changed digit of a weight goes unnoticed; a changed word of the structure does not.
    assert refused > 100


class Trap:
    """To unpickle this is to run code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_a_file_cannot_run_code(path: Path) -> None:
    trap = Trap(path.with_name("code_ran"))
    for data in (
        altered(model=trap),
        altered(extra=trap),
        saved_by_torch(trap),
        pickle.dumps(trap, protocol=2),
    ):
        check_refused(data, path, "must (be a complete checkpoint|hold tensors and plain values)")
        assert not trap.mark.exists()
    pickle.loads(pickle.dumps(trap))
    assert trap.mark.exists(), "the trap works"


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(path: Path, version: object) -> None:
    check_refused(altered(version=version), path, f"must have version 1, got {version!r}")


@pytest.mark.parametrize("iteration", [None, -1, 2.5, "7"])
def test_a_wrong_number_of_updates_is_refused(path: Path, iteration: object) -> None:
    check_refused(altered(iteration=iteration), path, f"number of updates, got {iteration!r}")


def test_a_file_without_weights_is_refused(path: Path) -> None:
    check_refused(altered(model=None), path, "the state of a model")


OTHER_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"width": 9}, r"weight is \(9, 4\) .*, the model has \(3, 4\) "),
    "missing": ({"bias": False}, "no bias"),
}


@pytest.mark.parametrize("kind", OTHER_MODELS)
def test_a_checkpoint_of_another_model_names_the_difference(path: Path, kind: str) -> None:
    other, message = OTHER_MODELS[kind]
    check_refused(checkpoint(**other), path, f"belongs to another model.*{message}")


def test_a_checkpoint_with_more_than_the_model_names_it(path: Path) -> None:
    state = trained()[0].state_dict()
    more = {f"layers.{index}.weight": torch.ones(1) for index in range(9)}
    check_refused(altered(model=state | more), path, r"unknown layers\.0\.weight.* and 6 more")


def test_a_checkpoint_of_other_groups_is_refused(path: Path) -> None:
    model, _ = trained()
    groups = [{"params": [p]} for p in model.parameters()]
    file = io.BytesIO()
    save_checkpoint(model, torch.optim.AdamW(groups, lr=0.1), 7, file)
    check_refused(file.getvalue(), path, "does not fit the optimizer.*groups")


def test_a_checkpoint_of_another_kind_of_optimizer_is_refused(path: Path) -> None:
    _, other = trained(kind=torch.optim.SGD)
    state = other.state_dict()
    check_refused(altered(optimizer=state), path, "belongs to another optimizer: group 0 has no")


def test_optimizer_state_of_another_shape_is_refused(path: Path) -> None:
    _, other = trained(width=9)
    state = other.state_dict()
    check_refused(altered(optimizer=state), path, r"exp_avg of shape \(9, 4\) fits no parameter")


@pytest.mark.parametrize("weight", ["text", None, [[1.0]]], ids=str)
def test_weights_that_are_no_tensors_are_refused(path: Path, weight: object) -> None:
    state = trained()[0].state_dict() | {"weight": weight}
    check_refused(altered(model=state), path, "belongs to another model: weight is")


def test_weights_of_another_type_are_refused(path: Path) -> None:
    state = {name: value.double() for name, value in trained()[0].state_dict().items()}
    check_refused(altered(model=state), path, "weight is .*float64, the model has .*float32")


@pytest.mark.parametrize("model", [5, [1]], ids=str)
def test_a_model_entry_that_is_no_dictionary_is_refused(path: Path, model: object) -> None:
    check_refused(altered(model=model), path, "must hold the state of a model")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("iteration", [3.0, "3", None], ids=str)
def test_a_number_of_updates_that_is_not_whole_is_refused(path: Path, iteration: Any) -> None:
    with pytest.raises(TypeError, match="integer"):
        save_checkpoint(*trained(), iteration, path)
    assert not path.exists()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [np.int64, torch.tensor], ids=["numpy", "torch"])
def test_a_whole_number_of_any_kind_comes_back(path: Path, kind: Callable[[int], Any]) -> None:
    save_checkpoint(*trained(), kind(3), path)
    assert load_checkpoint(path, *trained()) == 3


def test_a_changed_byte_is_noticed(path: Path) -> None:
    weights = trained()[0].state_dict()["weight"].numpy().tobytes()
    data = bytearray(checkpoint())
    data[data.index(weights)] ^= 1
    check_refused(bytes(data), path, "damaged")


def test_the_message_does_not_advise_to_trust_strangers(path: Path) -> None:
    path.write_bytes(saved_by_torch(Trap(path)))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path, *trained())
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("optimizer", [{}, [], {"state": {}, "param_groups": []}], ids=str)
def test_a_file_without_an_optimizer_is_refused(path: Path, optimizer: object) -> None:
    check_refused(altered(optimizer=optimizer), path, "optimizer")


@pytest.mark.parametrize("name", ["nowhere.pt", "nowhere/run.pt"])
def test_a_missing_file_is_reported_as_such(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / name, *trained())


def test_a_missing_folder_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_checkpoint(*trained(), 7, tmp_path / "nowhere" / "run.pt")


# --- disks that are full and machines that stop


@contextlib.contextmanager
def files_at_most(num_bytes: int) -> Iterator[None]:
    """Let the system refuse to write any file beyond a size."""
    resource = pytest.importorskip("resource", reason="limits are set the POSIX way")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check_only_the_old_one_is_there(path: Path) -> None:
    assert list(path.parent.iterdir()) == [path]
    model, optimizer = trained(seed=1)
    assert load_checkpoint(path, model, optimizer) == 7
    assert content(model, optimizer) == content(*trained(seed=0))


@pytest.mark.parametrize("num_bytes", [0, 1, 100, 2_000, 100_000, 400_000])
def test_the_old_checkpoint_stays_when_the_new_one_does_not_fit(path: Path, num_bytes: int) -> None:
    save_checkpoint(*trained(), 7, path)
    large = nn.Linear(300, 400)
    optimizer = torch.optim.SGD(large.parameters())
    with files_at_most(num_bytes), pytest.raises(OSError, match=r"File too large.*run\.pt"):
        save_checkpoint(large, optimizer, 8, path)
    check_only_the_old_one_is_there(path)


def test_the_old_checkpoint_stays_when_the_disk_cannot_keep_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save_checkpoint(*trained(), 7, path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(*trained(seed=1), 8, path)
    check_only_the_old_one_is_there(path)


def test_the_old_checkpoint_stays_when_writing_is_interrupted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object, file: BinaryIO) -> None:
        file.write(b"PK\x03\x04" * 300)
        raise KeyboardInterrupt

    save_checkpoint(*trained(), 7, path)
    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(*trained(seed=1), 8, path)
    check_only_the_old_one_is_there(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device for it")
def test_a_full_device_is_reported() -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as file,
        pytest.raises(OSError, match="No space left"),
    ):
        save_checkpoint(*trained(), 7, file)


# What has a state can be saved; a true optimizer would take seconds to import.
SAVE_FOREVER = """
import itertools, sys
from torch import nn
from scratch.train import save_checkpoint

model, optimizer = nn.Linear(500, 500), nn.Linear(1, 1)
for iteration in itertools.count(1):
    for p in [*model.parameters(), *optimizer.parameters()]:
        p.data.fill_(iteration)
    save_checkpoint(model, optimizer, iteration, sys.argv[1])
    print(iteration, flush=True)
"""


def kill_while_saving(path: Path, after_seconds: float) -> None:
    """Kill a process some time after its second checkpoint; the last must be whole."""
    command = [sys.executable, "-c", SAVE_FOREVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        time.sleep(after_seconds)
        process.kill()
        reported = 2 + len(process.stdout.readlines())
    model, optimizer = nn.Linear(500, 500), nn.Linear(1, 1)
    iteration = load_checkpoint(path, model, optimizer)
    # The process may have died between a checkpoint and its report.
    assert iteration in (reported, reported + 1)
    for p in [*model.parameters(), *optimizer.parameters()]:
        assert (p == iteration).all()


def test_a_killed_process_leaves_a_good_checkpoint(path: Path) -> None:
    kill_while_saving(path, after_seconds=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_process_killed_at_any_moment_leaves_a_good_checkpoint(path: Path, seed: int) -> None:
    kill_while_saving(path, after_seconds=random.Random(seed).uniform(0, 0.2))
