"""Contract: checkpoints restore everything, or refuse and touch nothing."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from .adapters import get_adamw_cls, run_load_checkpoint, run_save_checkpoint


class Run:
    """A small model and its optimizer, trained on data that depend on the step only."""

    def __init__(self, *, seed: int, width: int = 8, layer: str = "hidden") -> None:
        torch.manual_seed(seed)
        self.model = nn.ModuleDict({layer: nn.Linear(4, width), "out": nn.Linear(width, 2)})
        self.layer = layer
        self.optimizer = get_adamw_cls()(self.model.parameters(), lr=1e-2, weight_decay=0.1)

    def train(self, steps: range) -> "Run":
        for step in steps:
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            y = self.model["out"](self.model[self.layer](x).tanh())
            self.optimizer.zero_grad()
            (y - x[:, :2] * x[:, 2:]).square().mean().backward()
            self.optimizer.step()
        return self

    def state(self) -> dict[str, Any]:
        content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        file = io.BytesIO()
        torch.save(content, file)  # a copy: state dicts share their tensors
        file.seek(0)
        return torch.load(file, weights_only=True)

    def save(self, iteration: int, out: Any) -> None:
        run_save_checkpoint(self.model, self.optimizer, iteration, out)

    def load(self, src: Any) -> int:
        return run_load_checkpoint(src, self.model, self.optimizer)


def same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert_close(left, right, rtol=0, atol=0)


def check_saved_and_loaded(save: Callable[[Run], None], load: Callable[[Run], int]) -> None:
    run = Run(seed=0).train(range(5))
    saved = run.state()
    save(run)
    same(run.state(), saved)

    other = Run(seed=1)
    with pytest.raises(AssertionError):
        same(other.state(), saved)
    assert load(other) == 5
    same(other.state(), saved)

    stopped, never_stopped = other.train(range(5, 12)), run.train(range(5, 12))
    same(stopped.state(), never_stopped.state())


@pytest.mark.parametrize("kind", [Path, str], ids=["path", "str"])
def test_checkpointing(tmp_path: Path, kind: type) -> None:
    path = kind(tmp_path / "run.pt")
    check_saved_and_loaded(lambda run: run.save(5, path), lambda run: run.load(path))


def test_checkpointing_in_memory() -> None:
    file = io.BytesIO()

    def rewound() -> io.BytesIO:
        file.seek(0)
        return file

    check_saved_and_loaded(lambda run: run.save(5, file), lambda run: run.load(rewound()))


def test_checkpointing_in_an_open_file(tmp_path: Path) -> None:
    def save(run: Run) -> None:
        with (tmp_path / "run.pt").open("wb") as file:
            run.save(5, file)

    def load(run: Run) -> int:
        with (tmp_path / "run.pt").open("rb") as file:
            return run.load(file)

    check_saved_and_loaded(save, load)


def test_a_checkpoint_may_be_taken_before_the_first_step(tmp_path: Path) -> None:
    run, other = Run(seed=0), Run(seed=1).train(range(3))
    run.save(0, tmp_path / "run.pt")
    assert other.load(tmp_path / "run.pt") == 0
    same(other.state(), run.state())


def test_a_later_checkpoint_replaces_an_earlier_one(tmp_path: Path) -> None:
    run, path = Run(seed=0), tmp_path / "run.pt"
    run.save(0, path)
    run.train(range(3)).save(3, path)
    other = Run(seed=1)
    assert other.load(path) == 3
    same(other.state(), run.state())
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


# --- refusals


def checkpoint_of(run: Run) -> bytes:
    file = io.BytesIO()
    run.save(5, file)
    return file.getvalue()


def saved_by_torch(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def pickled(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)  # torch.load itself warns of any other


def zipped(content: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.json", content)
    return file.getvalue()


def check_refused(content: bytes, folder: Path, message: str = "checkpoint") -> None:
    path = folder / "bad.pt"
    path.write_bytes(content)
    run = Run(seed=1).train(range(2))
    before = run.state()
    for source in (path, str(path), io.BytesIO(content)):
        with pytest.raises(ValueError, match=message):
            run.load(source)
        same(run.state(), before)


@pytest.mark.parametrize("twentieths", range(20))
def test_a_file_cut_short_is_refused(tmp_path: Path, twentieths: int) -> None:
    content = checkpoint_of(Run(seed=0).train(range(5)))
    check_refused(content[: len(content) * twentieths // 20], tmp_path)


def test_a_file_without_its_last_byte_is_refused(tmp_path: Path) -> None:
    check_refused(checkpoint_of(Run(seed=0).train(range(5)))[:-1], tmp_path)


FOREIGN = {
    "text": b"once upon a time\n" * 100,
    "one_byte": b"\x80",
    "zeros": bytes(1000),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "json": json.dumps({"model": {}, "optimizer": {}, "iteration": 5}).encode(),
    "pickle": pickled({"model": {}, "optimizer": {}, "iteration": 5}),
    "archive": zipped("{}"),
    "list": saved_by_torch([1, 2, 3]),
    "tensor": saved_by_torch(torch.zeros(3)),
    "dictionary": saved_by_torch({"iteration": 5}),
    "state_dict": saved_by_torch(Run(seed=0).model.state_dict()),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused(tmp_path: Path, kind: str) -> None:
    check_refused(FOREIGN[kind], tmp_path)


class Touch:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dump", [saved_by_torch, pickled], ids=["torch", "pickle"])
def test_a_file_cannot_run_code(tmp_path: Path, dump: Callable[[object], bytes]) -> None:
    mark = tmp_path / "code_was_here"
    check_refused(dump({"iteration": 5, "model": Touch(mark), "optimizer": {}}), tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [({"width": 9}, r"hidden.weight.*9"), ({"layer": "inner"}, "inner")],
    ids=["shape", "name"],
)
def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    check_refused(checkpoint_of(Run(seed=0, **other).train(range(5))), tmp_path, message)


def test_a_checkpoint_of_other_parameter_groups_is_refused(tmp_path: Path) -> None:
    other = Run(seed=0)
    groups = [{"params": [parameter]} for parameter in other.model.parameters()]
    other.optimizer = get_adamw_cls()(groups, lr=1e-2)
    check_refused(checkpoint_of(other.train(range(5))), tmp_path, "optimizer|group")


def test_a_missing_file_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Run(seed=0).load(tmp_path / "nowhere.pt")


def test_a_folder_that_does_not_exist_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Run(seed=0).save(0, tmp_path / "nowhere" / "run.pt")
