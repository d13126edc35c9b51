"""The optimizer, its schedule and the precision of a run are those that the settings name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scratch.nn import TransformerConfig, TransformerLM
from scratch.optim import AdamW, Hybrid, WarmupCosine, WarmupLinear, WarmupStableDecay
from scratch.trainer.config import OptimizerSettings, TrainSettings
from scratch.trainer.device import choose_precision
from scratch.trainer.runs.run import RunDirectory
from scratch.trainer.training.optimization import build_optimizer, build_schedule
from scratch.trainer.training.train import train

MakeSettings = Callable[..., TrainSettings]
MUON = OptimizerSettings(kind="muon", lr=0.01, muon_lr=0.02)


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in RunDirectory(run).journal.read() if "loss" in record]


def test_adamw_has_all_parameters_and_decays_no_vectors() -> None:
    model = a_model()
    optimizer = build_optimizer(OptimizerSettings(weight_decay=0.3), model)
    assert isinstance(optimizer, AdamW)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {p: 0.3 if p.ndim == 2 else 0.0 for p in model.parameters()} == decay


def test_muon_has_the_matrices_of_the_blocks_at_a_rate_of_its_own() -> None:
    model = a_model()
    optimizer = build_optimizer(MUON, model)
    assert isinstance(optimizer, Hybrid)
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        p: 0.02 if name.startswith("layers.") and p.ndim == 2 else 0.01
        for name, p in model.named_parameters()
    }
    assert rate == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"schedule": "cosine"},
            WarmupCosine(peak=0.5, floor=0.05, warmup_steps=5, total_steps=100),
        ),
        (
            {"schedule": "linear"},
            WarmupLinear(peak=0.5, floor=0.05, warmup_steps=5, total_steps=100),
        ),
        (
            {"schedule": "wsd", "decay_fraction": 0.2},
            WarmupStableDecay(
                peak=0.5, floor=0.05, warmup_steps=5, total_steps=100, decay_steps=20
            ),
        ),
        (
            {"schedule": "constant"},
            WarmupLinear(peak=0.5, floor=0.5, warmup_steps=5, total_steps=100),
        ),
    ],
    ids=lambda value: value["schedule"] if isinstance(value, dict) else "",
)
def test_the_schedule_is_the_one_that_is_named(settings: dict[str, Any], expected: object) -> None:
    assert build_schedule(OptimizerSettings(lr=0.5, **settings), total_steps=100) == expected


def test_the_rates_that_are_written_down_are_those_of_muon_where_there_is_one() -> None:
    assert build_schedule(MUON, total_steps=10).peak == 0.02


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("total_steps", [1, 2, 3, 1000])
def test_runs_of_any_length_can_go_level_and_then_down(
    total_steps: int, warmup_fraction: float
) -> None:
    settings = OptimizerSettings(schedule="wsd", decay_fraction=1, warmup_fraction=warmup_fraction)
    schedule = build_schedule(settings, total_steps=total_steps)
    assert all(0 < schedule(step) <= 1e-3 for step in range(1, total_steps + 1))


def test_a_run_with_muon_that_was_stopped_ends_like_one_that_was_not(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "whole", optimizer=MUON)
    whole = train(settings).path
    (whole.parent / "part").mkdir()
    part = train(make_settings(tmp_path / "part", optimizer=MUON, resume=True)).path
    # As if it had been killed after the checkpoint of step 4: later ones are not there yet.
    for name in ("model.safetensors", "checkpoints/step-00000008", "checkpoints/step-00000012"):
        remove(part / name)
    train(make_settings(tmp_path / "part", optimizer=MUON, resume=True))
    name = "model.safetensors"
    assert (part / name).read_bytes() == (whole / name).read_bytes()
    assert losses(part) == losses(whole)


def test_bfloat16_products_give_about_the_same_run(
    make_settings: MakeSettings, unbroken: Path, tmp_path: Path
) -> None:
    run = train(make_settings(tmp_path / "run", precision="bfloat16"))
    assert losses(run.path) != losses(unbroken)
    assert losses(run.path) == pytest.approx(losses(unbroken), rel=0.01)
    weights = run.load_model(torch.device("cpu")).state_dict()
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize("made_for_it", [False, True])
def test_automatic_precision_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, *, made_for_it: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: made_for_it)
    expected = torch.bfloat16 if made_for_it else torch.float32
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) == expected
    assert choose_precision("float32", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16


def a_model() -> TransformerLM:
    return TransformerLM(
        TransformerConfig(
            vocab_size=9, context_length=4, d_model=8, num_layers=2, num_heads=2, d_ff=8
        )
    )


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
