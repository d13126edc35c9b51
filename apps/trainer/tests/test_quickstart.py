"""The quickstart: one command, safe to repeat, with figures that anybody can check."""

import gzip
import json
import lzma
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scratch.trainer import quickstart as module
from scratch.trainer.commands import QuickstartSettings
from scratch.trainer.data.stdlib_corpus import stdlib_sources
from scratch.trainer.quickstart import quickstart
from scratch.trainer.runs.run import RunDirectory
from scratch.trainer.training import pace

NAMES = ["path", "name", "value", "index", "result", "self", "other", "line", "text", "size"]


@pytest.fixture(scope="module", autouse=True)
def short_samples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SAMPLE_TOKENS", 4)
        yield


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of 40 modules that look like sources from far away."""
    root = tmp_path_factory.mktemp("stdlib")
    chance = random.Random(11)
    for number in range(40):
        lines = [
            f"def {chance.choice(NAMES)}_{n}({', '.join(chance.sample(NAMES, 2))}):\n"
            f"    return {chance.choice(NAMES)} + {chance.randint(0, 99)}\n"
            for n in range(12)
        ]
        (root / f"module{number}.py").write_text("\n".join(lines))
    return root


def settings(out: Path, *, seconds: float = 1.0) -> QuickstartSettings:
    return QuickstartSettings(out=out, train_seconds=seconds, vocab_size=300)


@pytest.fixture(scope="module")
def finished(stdlib: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "quickstart"
    quickstart(settings(out), stdlib=stdlib)
    return out


@pytest.fixture
def summary(finished: Path) -> dict[str, Any]:
    return json.loads((finished / "summary.json").read_text())


def held_out(stdlib: Path) -> bytes:
    return b"".join(stdlib_sources(stdlib)[1])


def test_the_summary_tells_what_was_reached(summary: dict[str, Any], stdlib: Path) -> None:
    assert set(summary) >= {"bits_per_byte", "train_seconds"}
    assert set(summary["bits_per_byte"]) == {"model", "gzip", "xz"}
    assert 1.0 <= summary["train_seconds"] < 3.0
    assert summary["held_out_bytes"] == len(held_out(stdlib)) > 0
    assert summary["tokens"] == summary["steps"] * 16 * 128
    assert 0 < summary["bits_per_byte"]["model"] < 8
    assert len(summary["samples"]) == 3


def test_the_compressors_are_measured_on_the_held_out_files(
    summary: dict[str, Any], stdlib: Path
) -> None:
    content = held_out(stdlib)
    gzipped, xzipped = gzip.compress(content, 9), lzma.compress(content, preset=9)
    assert summary["bits_per_byte"]["gzip"] == pytest.approx(8 * len(gzipped) / len(content))
    assert summary["bits_per_byte"]["xz"] == pytest.approx(8 * len(xzipped) / len(content))


def test_the_model_is_measured_on_the_held_out_files(
    summary: dict[str, Any], finished: Path, stdlib: Path
) -> None:
    data = json.loads((finished / "data" / "manifest.json").read_text())
    assert data["splits"]["validation"]["bytes"] == len(held_out(stdlib))
    corpus = (finished / "corpus" / "held-out.txt").read_bytes()
    assert corpus.replace(b"<|endoftext|>", b"") == held_out(stdlib)
    train = (finished / "corpus" / "train.txt").read_bytes().split(b"<|endoftext|>")
    assert train == stdlib_sources(stdlib)[0]
    (evaluation,) = [
        record for record in RunDirectory(finished).journal.read() if "val_loss" in record
    ]
    assert evaluation["step"] == summary["steps"]


def test_the_schedule_follows_the_time_and_ends_at_nothing(finished: Path) -> None:
    used = RunDirectory(finished).settings()
    assert (used.train_seconds, used.steps, used.optimizer.floor_fraction) == (1.0, None, 0.0)


def test_repeating_it_when_it_is_over_shows_the_same_and_changes_nothing(
    finished: Path, stdlib: Path, summary: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["model.safetensors", "metrics.jsonl", "data/manifest.json", "config.toml"]
    before = [(finished / name).read_bytes() for name in kept]
    assert quickstart(settings(finished), stdlib=stdlib) == summary
    assert [(finished / name).read_bytes() for name in kept] == before
    assert json.loads((finished / "summary.json").read_text()) == summary
    shown = capsys.readouterr().out
    for part in ("bits per byte", "gzip -9", "xz -9", "sample 3", "trainer generate"):
        assert part in shown
    for value in summary["bits_per_byte"].values():
        assert f" {value:.3f} " in shown


@pytest.mark.parametrize("part", ["prepare", "train", "score"])
def test_an_interruption_is_made_up_for(
    part: str, stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "quickstart"
    with monkeypatch.context() as patch:
        patch.setattr(module, part, interrupt)
        with pytest.raises(KeyboardInterrupt):
            quickstart(settings(out, seconds=0.2), stdlib=stdlib)
    assert not (out / "summary.json").exists()
    summary = quickstart(settings(out, seconds=0.2), stdlib=stdlib)
    assert json.loads((out / "summary.json").read_text()) == summary
    assert 0.2 <= summary["train_seconds"] < 3.0


def test_training_goes_on_where_it_was_interrupted(
    stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "quickstart"
    looks = count()  # a clock that goes on whenever somebody looks, however slow the machine
    clock = SimpleNamespace(perf_counter=lambda: next(looks) / 100)
    monkeypatch.setattr(pace, "time", clock)
    save_checkpoint = RunDirectory.save_checkpoint

    def save_and_stop(run: RunDirectory, *arguments: Any, **options: Any) -> None:
        save_checkpoint(run, *arguments, **options)
        run.checkpoints.wait()
        raise KeyboardInterrupt

    train = module.train
    every = {"checkpoint_every": 2}
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", save_and_stop)
        patch.setattr(module, "train", lambda s, **_: train(s.model_copy(update=every)))
        with pytest.raises(KeyboardInterrupt):
            quickstart(settings(out, seconds=0.2), stdlib=stdlib)
    assert RunDirectory(out).checkpoint_steps() == [2]
    before = (out / "metrics.jsonl").read_bytes()
    summary = quickstart(settings(out, seconds=0.2), stdlib=stdlib)
    assert (out / "metrics.jsonl").read_bytes().startswith(before)
    assert summary["steps"] > 2


def test_other_settings_do_not_disturb_what_is_there(finished: Path, stdlib: Path) -> None:
    before = (finished / "summary.json").read_bytes()
    with pytest.raises(ValueError, match=r"train_seconds was 1\.0, is 9\.0"):
        quickstart(settings(finished, seconds=9.0), stdlib=stdlib)
    assert (finished / "summary.json").read_bytes() == before


def test_a_run_that_is_no_quickstart_is_left_alone(stdlib: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("steps = 3")
    with pytest.raises(ValueError, match="holds a run that is no quickstart; choose another --out"):
        quickstart(settings(tmp_path), stdlib=stdlib)
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_an_unknown_device_is_told_before_the_work_begins(stdlib: Path, tmp_path: Path) -> None:
    out = tmp_path / "quickstart"
    with pytest.raises(ValueError, match="device must be one that torch can use, got 'gpu'"):
        quickstart(settings(out).model_copy(update={"device": "gpu"}), stdlib=stdlib)
    assert not (out / "data").exists()


@pytest.mark.slow
def test_twenty_seconds_with_the_real_library_teach_something(tmp_path: Path) -> None:
    out = tmp_path / "quickstart"
    summary = quickstart(QuickstartSettings(out=out, train_seconds=20))
    assert summary["held_out_bytes"] > 100_000
    assert 1.5 < summary["bits_per_byte"]["gzip"] < 2.5
    assert summary["bits_per_byte"]["xz"] < summary["bits_per_byte"]["gzip"]
    assert summary["bits_per_byte"]["model"] < 4.0
    assert summary["train_seconds"] < 25
