"""The compiled loss: tried before the training, and gone without where that is allowed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from scratch.nn import TransformerLM
from scratch.train import Batch
from scratch.trainer.config import ModelSettings
from scratch.trainer.runs.run import build_model
from scratch.trainer.training import compiling
from scratch.trainer.training.compiling import build_loss

CPU_TINY = ModelSettings(context_length=8, d_model=16, num_layers=1, num_heads=2)


@pytest.fixture
def model() -> TransformerLM:
    torch.manual_seed(0)
    return build_model(CPU_TINY, vocab_size=50)


@pytest.fixture
def batch() -> Batch:
    ids = torch.arange(18).reshape(2, 9) * 2
    return Batch(ids[:, :-1], ids[:, 1:])


def without_compiler(_: TransformerLM) -> compiling.Loss:
    def loss(model: TransformerLM, batch: Batch) -> Tensor:
        raise RuntimeError("Failed to find a C++ compiler\nand much more to read")

    return loss


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_cpu_goes_without_unless_told(
    mode: str, model: TransformerLM, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_compiled", pytest.fail)
    loss, compiled = build_loss("float32", mode, model, batch)
    assert not compiled
    assert loss(model, batch).item() == compiling.next_token_loss(model, batch).item()


def test_what_cannot_be_compiled_is_told_if_it_must_be(
    model: TransformerLM, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_compiled", without_compiler)
    with pytest.raises(
        ValueError,
        match=r"cannot be compiled here \(RuntimeError: Failed to find a C\+\+ compiler\)",
    ):
        build_loss("float32", "on", model, batch)


def test_auto_goes_on_without_and_says_so_once(
    model: TransformerLM,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(compiling, "_compiled", without_compiler)
    monkeypatch.setattr(compiling, "is_worth_compiling", lambda _: True)
    loss, compiled = build_loss("float32", "auto", model, batch)
    assert not compiled
    loss(model, batch).backward()
    told = capsys.readouterr().err.splitlines()
    assert told == ["going on without compiling: RuntimeError: Failed to find a C++ compiler"]


def test_the_trial_leaves_no_gradients(
    model: TransformerLM, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_compiled", lambda _: compiling.next_token_loss)
    _, compiled = build_loss("float32", "on", model, batch)
    assert compiled
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_a_run_may_be_compiled_for_real(data: Path, tmp_path: Path) -> None:
    import json
    import subprocess
    import sys

    losses = []
    for mode in ("off", "on"):
        line = f"train --data {data} --out {tmp_path / mode} --steps 5 --compile {mode}"
        line += " --log-every 1 --model.context-length 16 --model.d-model 16 --model.num-heads 2"
        command = [sys.executable, "-m", "scratch.trainer", *line.split()]
        subprocess.run(command, check=True, capture_output=True)
        lines = (tmp_path / mode / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(text)["loss"] for text in lines if '"loss"' in text])
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # float32, other sums
