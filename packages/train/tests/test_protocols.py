"""Training asks for a few methods, and for no base class."""

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scratch.train import (
    Batch,
    BinaryReader,
    BinaryWriter,
    MaskedOptimizer,
    Model,
    Optimizer,
    Stateful,
    evaluate,
    load_checkpoint,
    save_checkpoint,
    train_steps,
)


class Constant:
    """A model without `nn.Module`: one number, whatever the input."""

    def __init__(self, value: float) -> None:
        self.value = nn.Parameter(torch.tensor(value))

    def __call__(self, inputs: Tensor, /) -> Tensor:
        return self.value.expand(inputs.shape)

    def parameters(self) -> Iterator[nn.Parameter]:
        yield self.value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.detach()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.value.data.copy_(state_dict["value"])


class Descent:
    """An optimizer without `torch.optim`: `p -= lr * g`."""

    def __init__(self, params: Iterator[nn.Parameter]) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(params), "lr": 0.0}]
        self.updates = 0

    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * p.grad
        self.updates += 1

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.updates = state_dict["updates"]


class MaskedDescent(Descent):
    def masked_step(self, finite: Tensor, /) -> None:
        if finite:
            self.step()


def squared_error(model: Constant, batch: Batch) -> Tensor:
    return (model(batch.inputs) - batch.targets).square().mean()


def batches(done: int) -> list[Batch]:
    return [Batch(torch.zeros(1, 4, dtype=torch.int64), torch.full((1, 4), 3))]


def test_a_module_is_a_model() -> None:
    module = nn.Linear(1, 1)
    assert isinstance(module, Model)
    assert isinstance(module, Stateful)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_of_torch_is_one_without_a_mask(kind: type[torch.optim.Optimizer]) -> None:
    optimizer = kind(nn.Linear(1, 1).parameters(), lr=0.1)
    assert isinstance(optimizer, Optimizer)
    assert not isinstance(optimizer, MaskedOptimizer)


def test_what_has_the_methods_keeps_the_promise() -> None:
    model = Constant(0.0)
    assert isinstance(model, Model)
    assert isinstance(Descent(model.parameters()), Optimizer)
    assert not isinstance(Descent(model.parameters()), MaskedOptimizer)
    assert isinstance(MaskedDescent(model.parameters()), MaskedOptimizer)


@pytest.mark.parametrize("stranger", [object(), {}, lambda inputs: inputs], ids=type)
def test_what_lacks_them_does_not(stranger: object) -> None:
    for promise in (Stateful, Model, Optimizer, MaskedOptimizer):
        assert not isinstance(stranger, promise)


@pytest.mark.parametrize("kind", [Descent, MaskedDescent])
def test_strangers_that_keep_the_promises_train_and_resume(
    kind: Callable[[Iterator[nn.Parameter]], Descent], tmp_path: Path
) -> None:
    model = Constant(0.0)
    optimizer = kind(model.parameters())
    steps = train_steps(
        model, optimizer, batches, loss=squared_error, schedule=lambda _: 0.25, stop=30
    )
    assert [step.number for step in steps] == list(range(1, 31))
    # Each update halves the distance to 3: at last float32 can tell no difference.
    assert model.value == 3
    assert evaluate(model, batches(0), loss=squared_error).loss == 0

    save_checkpoint(model, optimizer, 30, tmp_path / "run.pt")
    fresh = Constant(0.0)
    restored = kind(fresh.parameters())
    assert load_checkpoint(tmp_path / "run.pt", fresh, restored) == 30
    assert fresh.value == 3
    assert restored.updates == 30


class Tape:
    """A file that knows only what a checkpoint needs, first to write it and then to read it."""

    def __init__(self) -> None:
        self._file = io.BytesIO()

    def write(self, data: bytes | memoryview, /) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def rewound(self) -> "TapeReader":
        return TapeReader(self._file.getvalue())


class TapeReader:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def test_files_of_python_can_hold_a_checkpoint(tmp_path: Path) -> None:
    with (
        (tmp_path / "run.pt").open("w+b") as named,
        (tmp_path / "raw.pt").open("w+b", buffering=0) as raw,
        tempfile.TemporaryFile() as unnamed,
        tempfile.SpooledTemporaryFile() as spooled,
        io.BytesIO() as memory,
    ):
        for file in (named, raw, unnamed, spooled, memory):
            assert isinstance(file, BinaryWriter)
            assert isinstance(file, BinaryReader)
            model = Constant(2.0)
            save_checkpoint(model, Descent(model.parameters()), 5, file)
            file.seek(0)
            assert load_checkpoint(file, Constant(0.0)) == 5


def test_a_stranger_to_files_can_hold_a_checkpoint() -> None:
    tape, model = Tape(), Constant(2.0)
    save_checkpoint(model, Descent(model.parameters()), 5, tape)
    other = Constant(0.0)
    assert load_checkpoint(tape.rewound(), other) == 5
    assert other.value == 2
