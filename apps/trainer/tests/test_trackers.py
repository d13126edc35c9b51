"""Trackers: whatever they do, the run goes on and ends."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scratch.trainer.watching.trackers import Trackers

MakeModule = Callable[..., Path]

# Stands in for wandb and trackio, which share this much of their interface.
FAKE = """
import json, os, sys, threading
from pathlib import Path

def note(*what):
    with Path({notes!r}).open("a") as file:
        file.write(json.dumps(what) + "\\n")

def hang():
    note("hangs")
    threading.Event().wait()

class Run:
    url = "https://tracker.example/run"
    def log(self, values, step):
        note("log", step, values)
        {log}
    def finish(self):
        note("finish")
        {finish}

def init(**settings):
    note("init", settings)
    print("words on stdout")
    {init}
    return Run()
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes.jsonl"


@pytest.fixture
def make_module(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> MakeModule:
    """Return a maker of a module that writes down what is done to it."""
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PYTHONPATH", str(packages))

    def make(name: str, *, init: str = "", log: str = "", finish: str = "") -> Path:
        text = FAKE.format(
            notes=str(notes), init=init or "pass", log=log or "pass", finish=finish or "pass"
        )
        (packages / f"{name}.py").write_text(text)
        return notes

    return make


def read(notes: Path) -> list[Any]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def wait_for(notes: Path, word: str) -> None:
    """Return when a fake has written a word."""
    for _ in range(6000):
        if notes.exists() and word in notes.read_text():
            return
        time.sleep(0.01)
    pytest.fail(f"no {word} in {notes}")


def has_ended(trackers: Trackers) -> bool:
    return all(tracker.process.poll() is not None for tracker in trackers.all)


def update(step: int, **changes: object) -> dict[str, Any]:
    return {"step": step, "tokens": 64 * step, "loss": 5.0 / step, **changes}


def test_records_arrive_in_order_and_then_the_end(make_module: MakeModule, tmp_path: Path) -> None:
    notes = make_module("wandb")
    with Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=60) as trackers:
        for step in range(1, 301):
            trackers.log(update(step))
    _, *logs, end = read(notes)
    assert logs == [["log", s, {"tokens": 64 * s, "loss": 5.0 / s}] for s in range(1, 301)]
    assert end == ["finish"]
    assert has_ended(trackers)


def test_only_finite_numbers_are_sent(make_module: MakeModule, tmp_path: Path) -> None:
    notes = make_module("wandb")
    with Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=60) as trackers:
        trackers.log(update(1, loss=None, lr=float("nan"), grad_norm=float("inf"), good=True))
        trackers.log({"step": 2, "event": "stopped", "reason": "because"})
        trackers.log({"step": 3, "tokens": 9, "seconds": 1.5, "prompt": "a", "sample": "b"})
    assert read(notes)[1:-1] == [
        ["log", 1, {"tokens": 64}],
        ["log", 3, {"tokens": 9, "seconds": 1.5}],
    ]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_that_goes_on_is_the_same_run_of_the_tracker(
    name: str, make_module: MakeModule, tmp_path: Path
) -> None:
    notes = make_module(name)
    config = {"steps": 9, "data": tmp_path, "model": {"d_model": 16}}
    for run in ("tales", "tales", "others/tales"):
        with Trackers.open([name], tmp_path / run, config, close_seconds=60):
            pass
    first, again, other = (settings for what, settings in map(tuple, inits(notes)))
    assert first["config"] == {**config, "data": str(tmp_path)}
    assert first["resume"] == "allow"
    assert first["name"].startswith("tales")
    assert first == again
    key = "id" if name == "wandb" else "name"
    assert first[key] != other[key]


def inits(notes: Path) -> list[Any]:
    return [note for note in read(notes) if note[0] == "init"]


def test_wandb_keeps_its_files_in_the_run(make_module: MakeModule, tmp_path: Path) -> None:
    notes = make_module("wandb")
    with Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=60):
        pass
    assert inits(notes)[0][1]["dir"] == str(tmp_path / "run")  # wandb itself adds /wandb


def test_the_user_can_choose_the_project(
    make_module: MakeModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = make_module("wandb")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=60):
        pass
    assert inits(notes)[0][1]["project"] == "mine"


def test_what_a_library_prints_is_not_on_stdout_but_in_a_log(
    make_module: MakeModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_module("trackio")
    with Trackers.open(["trackio"], tmp_path / "run", {}, close_seconds=60):
        pass
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == "trackio shows the metrics at https://tracker.example/run\n"
    assert "words on stdout" in (tmp_path / "run" / "trackio" / "output.log").read_text()


def test_a_package_that_is_missing_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()  # a directory where wandb kept files is not the package
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r'pip install "scratch-trainer\[wandb\]"'):
        Trackers.open(["tensorboard", "wandb"], tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_a_tracker_that_raises_is_switched_off_with_one_sentence(
    place: str, make_module: MakeModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_module("wandb", **{place: "raise ConnectionError('no route\\nto host')"})
    with Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=60) as trackers:
        for step in range(1, 2001):
            trackers.log(update(step))
    journal = tmp_path / "run" / "metrics.jsonl"
    off = [line for line in capfd.readouterr().err.splitlines() if " is off" in line]
    assert off == [f"wandb is off: ConnectionError: no route; the metrics are in {journal}"]
    assert has_ended(trackers)
    log = (tmp_path / "run" / "wandb" / "output.log").read_text()
    assert "Traceback" in log
    assert "to host" in log


@pytest.mark.parametrize("death", ["os._exit(3)", "os.kill(os.getpid(), 9)", "sys.exit(3)"])
def test_a_tracker_that_dies_takes_nothing_with_it(
    death: str, make_module: MakeModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_module("wandb", log=death)
    with Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=60) as trackers:
        trackers.log(update(1))
    assert capfd.readouterr().err.count("wandb is off: ") == 1
    assert has_ended(trackers)


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_a_tracker_that_hangs_for_ever_is_left(
    place: str, make_module: MakeModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notes = make_module("wandb", **{place: "hang()"})
    trackers = Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=0)
    trackers.log(update(1))
    if place != "finish":
        wait_for(notes, "hangs")
    trackers.close()
    assert has_ended(trackers)
    assert "wandb was not done 0 s after the end and was left" in capfd.readouterr().err


def test_a_library_that_hangs_when_the_program_ends_is_left(
    make_module: MakeModule, tmp_path: Path
) -> None:
    notes = make_module("wandb", init="import atexit; atexit.register(hang)")
    trackers = Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=0)
    trackers.all[0].end()
    wait_for(notes, "hangs")
    trackers.close()
    assert has_ended(trackers)


def test_one_that_fails_does_not_wait_for_what_it_does_at_its_end(
    make_module: MakeModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notes = make_module("wandb", init="import atexit; atexit.register(hang); raise OSError('no')")
    with Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=60):
        pass
    assert "wandb is off: OSError: no" in capfd.readouterr().err
    assert "hangs" not in notes.read_text()


def test_a_full_queue_drops_records_counts_them_and_says_so_once(
    make_module: MakeModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notes = make_module("wandb", init="hang()")
    trackers = Trackers.open(["wandb"], tmp_path / "run", {}, close_seconds=0, queue_records=10)
    wait_for(notes, "hangs")
    for step in range(1, 16):
        trackers.log(update(step))
    assert trackers.all[0].dropped == 5
    trackers.close()
    assert capfd.readouterr().err.count("wandb is slow") == 1
    assert has_ended(trackers)


def test_one_tracker_that_hangs_does_not_hinder_another(
    make_module: MakeModule, tmp_path: Path
) -> None:
    notes = make_module("wandb", init="hang()")
    make_module("trackio")
    trackers = Trackers.open(["wandb", "trackio"], tmp_path / "run", {}, close_seconds=0)
    trackers.log(update(1))
    wait_for(notes, '["log", 1,')
    trackers.close()
    assert has_ended(trackers)


def test_a_run_directory_that_cannot_be_written_switches_trackers_off(
    make_module: MakeModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_module("wandb")
    (tmp_path / "run").write_text("a file")
    with Trackers.open(["wandb"], tmp_path / "run", {}) as trackers:
        trackers.log(update(1))
    assert "wandb is off: " in capfd.readouterr().err


def test_the_tracker_ends_by_itself_when_the_trainer_is_killed(
    make_module: MakeModule, tmp_path: Path
) -> None:
    notes = make_module("wandb")
    program = (
        "from pathlib import Path; from scratch.trainer.watching.trackers import Trackers\n"
        "trackers = Trackers.open(['wandb'], Path('run'), {})\n"
        "trackers.log({'step': 1, 'loss': 2.5})\n"
        "import threading; threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path) as trainer:
        wait_for(notes, '["log", 1,')
        trainer.kill()
    wait_for(notes, "finish")


class TestTensorBoard:
    def scalars(self, run: Path, tag: str) -> list[tuple[int, float]]:
        accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = accumulators.EventAccumulator(str(run / "tensorboard")).Reload()
        return [(event.step, event.value) for event in events.Scalars(tag)]

    def test_metrics_can_be_read_back(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with Trackers.open(["tensorboard"], tmp_path, {"steps": 3}, close_seconds=60) as trackers:
            trackers.log(update(1, lr=0.25))
            trackers.log(update(2, lr=0.5))
            trackers.log({"step": 2, "val_loss": 4.5})
        assert self.scalars(tmp_path, "loss") == [(1, 5.0), (2, 2.5)]
        assert self.scalars(tmp_path, "lr") == [(1, 0.25), (2, 0.5)]
        assert self.scalars(tmp_path, "val_loss") == [(2, 4.5)]
        assert capfd.readouterr() == ("", "")

    def test_what_is_made_again_after_a_crash_counts_once(self, tmp_path: Path) -> None:
        for steps, loss in (range(1, 9), 1.0), (range(5, 11), 2.0):
            with Trackers.open(["tensorboard"], tmp_path, {}, close_seconds=60) as trackers:
                for step in steps:
                    trackers.log({"step": step, "loss": loss})
        found = self.scalars(tmp_path, "loss")
        assert found == [(s, 1.0) for s in range(1, 5)] + [(s, 2.0) for s in range(5, 11)]
