"""Training: every update is written down, and how it is computed does not change what."""

import json
import math
import re
import shutil
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scratch.nn import TransformerLM
from scratch.optim import WarmupCosine
from scratch.train import Batch, NonFiniteError
from scratch.trainer.config import ModelSettings, OptimizerSettings, TrainSettings
from scratch.trainer.runs.run import RunDirectory
from scratch.trainer.training import compiling, examining, pace
from scratch.trainer.training import train as module
from scratch.trainer.training.divergence import DivergedError, DivergenceDetector
from scratch.trainer.training.pace import Pace, Stopwatch
from scratch.trainer.training.train import train
from scratch.trainer.watching.trackers import Trackers

MakeSettings = Callable[..., TrainSettings]
RESULT = "model.safetensors"


def updates(run: Path) -> list[dict[str, Any]]:
    return [record for record in RunDirectory(run).journal.read() if "loss" in record]


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [record for record in RunDirectory(run).journal.read() if "val_loss" in record]


def test_every_update_is_written_down(unbroken: Path) -> None:
    lines = updates(unbroken)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["tokens"] for line in lines] == [4 * 16 * step for step in range(1, 13)]
    seconds = [0.0, *(line["seconds"] for line in lines)]
    assert all(earlier < later for earlier, later in pairwise(seconds))
    assert all(line["grad_norm"] > 0 for line in lines)
    first = ["step", "tokens", "seconds", "loss", "lr", "grad_norm"]
    assert list(lines[0]) == [*first, "tokens_per_second", "memory_bytes"]
    assert all(line["tokens_per_second"] > 0 and line["memory_bytes"] > 10**6 for line in lines)


def test_the_loss_begins_at_that_of_a_guess_and_falls(
    unbroken: Path, make_settings: MakeSettings, tmp_path: Path
) -> None:
    assert updates(unbroken)[0]["loss"] == pytest.approx(math.log(300), abs=0.5)
    run = train(make_settings(tmp_path / "run", steps=100, optimizer=OptimizerSettings(lr=0.03)))
    assert updates(run.path)[-1]["loss"] < 3.5
    assert evaluations(run.path)[-1]["val_loss"] < 3.5


def test_the_learning_rate_follows_warm_up_and_cosine(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    optimizer = OptimizerSettings(lr=0.02, warmup_fraction=0.25, floor_fraction=0.1)
    run = train(make_settings(tmp_path / "run", optimizer=optimizer))
    rates = [line["lr"] for line in updates(run.path)]
    expected = [0.02 * step / 3 for step in (1, 2)]
    expected += [
        0.002 + (1 + math.cos(math.pi * (step - 3) / 9)) / 2 * 0.018 for step in range(3, 13)
    ]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_held_out_text_is_evaluated_regularly_and_at_the_end(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    run = train(make_settings(tmp_path / "run", evaluate_every=5))
    lines = evaluations(run.path)
    assert [line["step"] for line in lines] == [5, 10, 12]
    for line in lines:
        update = updates(run.path)[line["step"] - 1]
        assert {key: line[key] for key in ("step", "tokens", "seconds")} == {
            key: update[key] for key in ("step", "tokens", "seconds")
        }
        assert line["val_perplexity"] == pytest.approx(math.exp(line["val_loss"]))


def test_the_end_is_evaluated_once(unbroken: Path) -> None:
    assert [line["step"] for line in evaluations(unbroken)] == [6, 12]


def test_the_seed_decides_everything(
    make_settings: MakeSettings, unbroken: Path, tmp_path: Path
) -> None:
    again = train(make_settings(tmp_path / "again")).path
    other = train(make_settings(tmp_path / "other", seed=1)).path
    assert (again / RESULT).read_bytes() == (unbroken / RESULT).read_bytes()
    assert (other / RESULT).read_bytes() != (unbroken / RESULT).read_bytes()
    assert updates(other)[0]["loss"] != updates(unbroken)[0]["loss"]


@pytest.mark.parametrize("changes", [{"log_every": 1}, {"checkpoint_every": 5}], ids=str)
def test_looking_and_saving_do_not_disturb(
    changes: dict[str, int], make_settings: MakeSettings, unbroken: Path, tmp_path: Path
) -> None:
    run = train(make_settings(tmp_path / "run", **changes)).path
    assert (run / RESULT).read_bytes() == (unbroken / RESULT).read_bytes()


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, 9])
def test_it_does_not_matter_how_a_batch_is_cut(
    micro_batch_size: int, make_settings: MakeSettings, unbroken: Path, tmp_path: Path
) -> None:
    run = train(make_settings(tmp_path / "run", micro_batch_size=micro_batch_size)).path
    for found, expected in zip(updates(run), updates(unbroken), strict=True):
        assert found["tokens"] == expected["tokens"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)  # float32, other sums
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(
    "model",
    [
        {"norm": "post", "tie_embeddings": True},
        {"norm": "none", "feed_forward": "silu"},
        {"position": "none", "num_heads": 16},
        {"feed_forward": "relu2", "num_kv_heads": 1, "qk_norm": "rms", "logit_cap": 9.0},
        {"attention": "fused", "sliding_window": 3, "checkpointing": "block"},
    ],
    ids=str,
)
def test_every_variant_of_the_model_trains(
    model: dict[str, Any], make_settings: MakeSettings, tmp_path: Path
) -> None:
    shape = {"context_length": 8, "d_model": 16, "num_layers": 1, "num_heads": 2, **model}
    run = train(make_settings(tmp_path / "run", steps=3, model=ModelSettings(**shape)))
    assert len(updates(run.path)) == 3
    run.load_model(torch.device("cpu"))


def test_flex_attention_is_refused_on_a_cpu_before_anything_is_written(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    model = ModelSettings(attention="flex")
    with pytest.raises(ValueError, match=r"model\.attention must not be flex on a CPU"):
        train(make_settings(tmp_path / "run", model=model, device="cpu"))
    assert not (tmp_path / "run").exists()


def fail_at(step: int, value: float) -> Callable[[TransformerLM, Batch], Tensor]:
    """Return a loss that becomes `value` at the update `step`."""
    next_token_loss, calls = compiling.next_token_loss, count(1)
    return lambda model, batch: (
        next_token_loss(model, batch) * (value if next(calls) == step else 1)
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_points_to_the_newest_checkpoint(
    value: float, make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path / "run", log_every=4, evaluate_every=100)
    monkeypatch.setattr(compiling, "next_token_loss", fail_at(7, value))
    with pytest.raises(NonFiniteError) as error:
        train(settings)
    told = r"step 7: .* rate 0\.\d+, .* norms before: .*; the newest checkpoint is of step 4"
    assert re.fullmatch(told, str(error.value))
    *lines, end = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (settings.out / "metrics.jsonl").read_text().splitlines()
    ]
    assert (end["step"], end["event"]) == (8, "diverged")
    assert "step 7" in end["reason"]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["loss"] is None for line in lines] == [line["step"] == 7 for line in lines]
    assert RunDirectory(settings.out).checkpoint_steps() == [4]
    assert not (settings.out / RESULT).exists()


def test_before_the_first_checkpoint_there_is_none_to_point_to(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "next_token_loss", fail_at(2, math.nan))
    with pytest.raises(NonFiniteError, match=r"step 2: .*; no checkpoint yet"):
        train(make_settings(tmp_path / "run"))


def test_a_run_that_met_a_bad_loss_can_be_resumed(
    make_settings: MakeSettings, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path / "run", resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "next_token_loss", fail_at(7, math.nan))
        with pytest.raises(NonFiniteError):
            train(settings)
    train(settings)
    assert (settings.out / RESULT).read_bytes() == (unbroken / RESULT).read_bytes()


def test_no_checkpoint_is_called_good_that_may_not_be(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    optimizer = OptimizerSettings(lr=1e30, warmup_fraction=0)
    settings = make_settings(tmp_path / "run", checkpoint_every=1, optimizer=optimizer)
    with pytest.raises(NonFiniteError) as error:
        train(settings)
    assert "good" not in str(error.value)  # its weights may be where the trouble began


class Clock:
    """Stands in for the module `time`: each look takes a hundredth of a second."""

    def __init__(self) -> None:
        self._looks = count()

    def perf_counter(self) -> float:
        return next(self._looks) / 100


@pytest.mark.parametrize("floor_fraction", [0.0, 0.1])
def test_a_budget_of_time_ends_at_the_floor_of_the_schedule(
    floor_fraction: float,
    make_settings: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "time", Clock())
    optimizer = OptimizerSettings(lr=0.01, warmup_fraction=0.2, floor_fraction=floor_fraction)
    settings = make_settings(
        tmp_path / "run", steps=None, train_seconds=3.0, optimizer=optimizer, evaluate_every=25
    )
    lines = updates(train(settings).path)
    assert lines[-2]["seconds"] < 3.0 <= lines[-1]["seconds"] < 3.05
    assert lines[-1]["lr"] == pytest.approx(0.01 * floor_fraction, abs=1e-5)
    peak = max(range(len(lines)), key=lambda number: lines[number]["lr"])
    assert lines[peak]["lr"] == pytest.approx(0.01, rel=0.02)
    assert lines[peak]["seconds"] == pytest.approx(0.2 * 3.0, abs=0.05)
    schedule = WarmupCosine(
        peak=0.01, floor=0.01 * floor_fraction, warmup_steps=200, total_steps=1000
    )
    for line in lines[2:]:  # asked one look before the update was over
        part = 1000 * (line["seconds"] - 0.01) / 3.0
        assert line["lr"] == pytest.approx(schedule(part), rel=1e-6, abs=1e-9)
    assert evaluations(settings.out)[-1]["step"] == lines[-1]["step"]


def test_a_budget_of_time_is_shared_by_the_parts_of_a_run(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "time", Clock())
    settings = make_settings(tmp_path / "run", steps=None, train_seconds=2.0, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "next_token_loss", fail_at(31, math.nan))
        with pytest.raises(NonFiniteError):
            train(settings)
    good = RunDirectory(settings.out).checkpoint_steps()[-1]
    before = updates(settings.out)[good - 1]["seconds"]
    assert 0 < before < 1
    lines = updates(train(settings).path)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert all(earlier["seconds"] < later["seconds"] for earlier, later in pairwise(lines))
    assert lines[-2]["seconds"] < 2.0 <= lines[-1]["seconds"] < 2.05


def test_a_run_that_is_over_is_left_as_it_is(
    finished: Path, unbroken: Path, make_settings: MakeSettings
) -> None:
    train(make_settings(finished, resume=True))
    for name in (RESULT, "metrics.jsonl"):
        assert (finished / name).read_bytes() == (unbroken / name).read_bytes()


def test_a_pause_does_not_count_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now))
    watch = Stopwatch(5.0)
    now += 2
    with watch.paused():
        now += 30
    now += 1
    assert watch.seconds == 8.0


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.05, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
def test_runs_of_any_length_have_a_schedule(
    make_settings: MakeSettings, tmp_path: Path, steps: int, warmup_fraction: float
) -> None:
    optimizer = OptimizerSettings(lr=0.5, warmup_fraction=warmup_fraction, floor_fraction=0.1)
    its_pace = Pace(make_settings(tmp_path, steps=steps), Stopwatch(0.0))
    rates = [its_pace.schedule(optimizer)(number) for number in range(1, steps + 1)]
    assert all(0 < rate <= 0.5 for rate in rates)
    assert rates[-1] == pytest.approx(0.05)
    assert its_pace.fraction(steps, 0.0) == 1


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"steps": None}, "none of them"),
        ({"train_seconds": 5.0}, "--steps and --train-seconds"),
        ({"steps": None, "train_tokens": 9, "train_seconds": 5.0}, "--train-tokens and --train-s"),
    ],
    ids=str,
)
def test_a_run_has_one_length(
    changes: dict[str, float], got: str, make_settings: MakeSettings, tmp_path: Path
) -> None:
    message = f"needs one of --steps, --train-tokens and --train-seconds, got {got}"
    with pytest.raises(ValueError, match=message):
        train(make_settings(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ModelSettings(d_model=16, num_heads=3)}, "num_heads must divide d_model"),
        ({"model": ModelSettings(context_length=5000)}, "num_tokens must exceed context_length"),
        ({"device": "gpu"}, "device must be one that torch can use, got 'gpu'"),
        ({"data": Path("nowhere")}, "nowhere must hold prepared data"),
    ],
    ids=["heads", "context", "device", "data"],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, make_settings: MakeSettings, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(make_settings(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_tokens_that_the_model_does_not_know_are_refused(
    make_settings: MakeSettings, data: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(data, tmp_path / "data")
    (shard,) = damaged.glob("**/train-*.npy")
    np.save(shard, np.full_like(np.load(shard), 300))
    with pytest.raises(ValueError, match="300"):
        train(make_settings(tmp_path / "run", data=damaged))


def test_tokens_make_whole_updates(
    make_settings: MakeSettings, unbroken: Path, tmp_path: Path
) -> None:
    run = train(make_settings(tmp_path / "run", steps=None, train_tokens=11 * 64 + 1)).path
    assert (run / RESULT).read_bytes() == (unbroken / RESULT).read_bytes()


def lost_after(step: int) -> Callable[[TransformerLM, Batch], Tensor]:
    """Return a loss that is five nats higher from an update on."""
    next_token_loss, calls = compiling.next_token_loss, count(1)
    return lambda model, batch: next_token_loss(model, batch) + 5 * (next(calls) > step)


def test_a_training_that_diverges_ends_and_says_so(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "next_token_loss", lost_after(9))
    settings = make_settings(tmp_path / "run", steps=50, divergence_nats=2.0)
    with pytest.raises(
        DivergedError,
        match=r"diverges; .*; the newest checkpoint is of step \d+, the best on held-out text of s",
    ):
        train(settings)
    end = RunDirectory(settings.out).journal.read()[-1]
    assert end["event"] == "diverged"
    assert 10 < end["step"] < 30
    assert not (settings.out / RESULT).exists()


def test_a_training_may_be_left_to_diverge(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "next_token_loss", lost_after(3))
    train(make_settings(tmp_path / "run", divergence_nats=0.0))


def test_what_a_detector_has_seen_it_knows_again_after_resuming(
    stopped: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    add = DivergenceDetector.add

    def note(detector: DivergenceDetector, step: int, loss: float) -> None:
        seen.append(step)
        add(detector, step, loss)

    monkeypatch.setattr(DivergenceDetector, "add", note)
    train(make_settings(stopped, resume=True))
    assert seen == list(range(1, 13))


def test_a_checkpoint_is_on_the_disk_before_an_evaluation_begins(
    make_settings: MakeSettings, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("in the evaluation")

    settings = make_settings(tmp_path / "run", checkpoint_every=100, evaluate_every=6, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(examining, "evaluate_tokens", crash)
        with pytest.raises(RuntimeError, match="in the evaluation"):
            train(settings)
    run = RunDirectory(settings.out)
    assert run.checkpoint_steps() == [6]
    assert run.journal.read()[-1]["event"] == "failed"
    train(settings)
    assert (settings.out / RESULT).read_bytes() == (unbroken / RESULT).read_bytes()


def test_trackers_are_sent_every_number_of_the_journal_also_that_of_the_end(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def send(_: Trackers, record: Any) -> None:
        sent.append(record)

    monkeypatch.setattr(Trackers, "log", send)
    run = train(make_settings(tmp_path / "run", evaluate_every=5))
    assert sent == [record for record in run.journal.read() if "event" not in record]
    assert sent[-1]["val_loss"] > 0


def test_samples_are_written_down_and_disturb_nothing(
    make_settings: MakeSettings, unbroken: Path, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "run", sample_every=6, sample_prompt="the cat")
    run = train(settings)
    samples = [record for record in run.journal.read() if "sample" in record]
    assert [record["step"] for record in samples] == [6, 12]
    assert all(record["prompt"] == "the cat" and record["sample"] for record in samples)
    assert (run.path / RESULT).read_bytes() == (unbroken / RESULT).read_bytes()


def test_a_run_may_start_from_the_weights_of_another(
    make_settings: MakeSettings, unbroken: Path, tmp_path: Path
) -> None:
    still = OptimizerSettings(lr=0.0)
    settings = make_settings(tmp_path / "run", init_from=unbroken, steps=1, optimizer=still)
    assert (train(settings).path / RESULT).read_bytes() == (unbroken / RESULT).read_bytes()
    wider = settings.model_copy(update={"out": tmp_path / "other", "model": ModelSettings()})
    with pytest.raises(ValueError, match="model must have the shape of that in"):
        train(wider)


def test_a_run_goes_on_without_the_one_whose_weights_it_started_with(
    make_settings: MakeSettings, unbroken: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(unbroken, tmp_path / "source")
    settings = make_settings(tmp_path / "run", init_from=source, resume=True)
    train(settings.model_copy(update={"max_tokens": 1}))
    shutil.rmtree(source)
    assert train(settings).is_finished()


def test_memory_that_runs_short_is_told_with_what_to_try(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(compiling, "next_token_loss", exhaust)
    with pytest.raises(MemoryError, match="--micro-batch-size 2"):
        train(make_settings(tmp_path / "run"))
    assert "--micro-batch-size 2" in RunDirectory(tmp_path / "run").journal.read()[-1]["reason"]


def test_as_many_sequences_as_fit_are_found_once_and_kept(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "largest_micro_batch", lambda *_: 2)
    settings = make_settings(tmp_path / "run", micro_batch_size="auto", resume=True)
    train(settings)
    assert RunDirectory(settings.out).settings().micro_batch_size == 2
    monkeypatch.setattr(module, "largest_micro_batch", pytest.fail)
    train(settings)
