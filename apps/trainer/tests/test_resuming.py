"""Contract: however often a run dies, the same command with --resume ends as if it had not."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from scratch.trainer.cli import main
from scratch.trainer.config import TrainSettings
from scratch.trainer.runs.run import RunDirectory
from scratch.trainer.training.train import train

MakeSettings = Callable[..., TrainSettings]
StartTrainer = Callable[..., BaseProcess]
RESULT = "model.safetensors"
PATIENCE_SECONDS = 60
SHAPE = "--model.d-model 16 --model.num-layers 1 --model.num-heads 2 --model.context-length 16"


def command(data: Path, out: Path, *, steps: int, checkpoint_every: int) -> list[str]:
    options = f"--steps {steps} --batch-size 4 --seed 5 --checkpoint-every {checkpoint_every}"
    options += f" --evaluate-every 25 --log-every 3 {SHAPE}"
    return ["train", "--data", str(data), "--out", str(out), *options.split()]


def journal(run: Path) -> list[dict[str, Any]]:
    """Return the lines without what depends on the moment: time and memory."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    moment = {"seconds", "tokens_per_second", "memory_bytes"}
    return [{key: line[key] for key in line.keys() - moment} for line in lines]


def assert_same_run(run: Path, expected: Path) -> None:
    assert (run / RESULT).read_bytes() == (expected / RESULT).read_bytes()
    assert journal(run) == journal(expected)
    seconds = [line["seconds"] for line in RunDirectory(run).journal.read() if "seconds" in line]
    assert seconds == sorted(seconds)


def wait_for(condition: Callable[[], object], process: BaseProcess) -> None:
    """Look, without a rest, until it is true or the process is over."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and process.is_alive():
        assert time.monotonic() < deadline, "nothing happened"


def kill(process: BaseProcess) -> bool:
    """Return whether there was still something to kill."""
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 60 steps that nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(command(data, out, steps=60, checkpoint_every=20)) == 0
    return out


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    start_trainer: StartTrainer, data: Path, out: Path, undisturbed: Path
) -> None:
    arguments = command(data, out, steps=60, checkpoint_every=1000)
    process = start_trainer(*arguments)
    wait_for((out / "metrics.jsonl").exists, process)
    assert kill(process)
    assert RunDirectory(out).checkpoint_steps() == []
    assert main([*arguments, "--resume"]) == 0
    assert_same_run(out, undisturbed)


def test_a_run_killed_between_two_checkpoints_goes_on_from_the_last_one(
    start_trainer: StartTrainer, data: Path, out: Path, undisturbed: Path
) -> None:
    arguments = command(data, out, steps=60, checkpoint_every=7)
    process = start_trainer(*arguments)
    wait_for((out / "checkpoints" / "step-00000014").exists, process)
    assert kill(process)
    assert RunDirectory(out).checkpoint_steps()[-1] >= 14
    assert main([*arguments, "--resume"]) == 0
    assert_same_run(out, undisturbed)


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    start_trainer: StartTrainer, data: Path, out: Path, undisturbed: Path
) -> None:
    arguments = command(data, out, steps=60, checkpoint_every=1)
    checkpoints = out / "checkpoints"

    def unfinished() -> list[str]:
        return [path.name for path in checkpoints.iterdir() if path.name.startswith(".")]

    process = start_trainer(*arguments)
    wait_for(checkpoints.exists, process)
    wait_for(unfinished, process)
    assert kill(process)
    while not unfinished():  # it was quicker: try again with what is left
        process = start_trainer(*arguments, "--resume")
        wait_for(unfinished, process)
        assert kill(process), "60 checkpoints were too few to hit one"
    assert main([*arguments, "--resume"]) == 0
    assert_same_run(out, undisturbed)
    assert not unfinished()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_saves_and_tells_how_to_go_on(
    number: signal.Signals,
    start_trainer: StartTrainer,
    data: Path,
    out: Path,
    undisturbed: Path,
) -> None:
    arguments = command(data, out, steps=60, checkpoint_every=1000)
    process = start_trainer(*arguments)
    journal = out / "metrics.jsonl"
    wait_for(lambda: journal.exists() and journal.stat().st_size > 0, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0
    (step,) = RunDirectory(out).checkpoint_steps()
    assert RunDirectory(out).journal.read()[-1] == {
        "step": step,
        "event": "stopped",
        "reason": number.name,
    }
    assert main(["train", "--config", str(out / "config.toml"), "--resume"]) == 0
    assert_same_run(out, undisturbed)


def test_a_running_trainer_keeps_others_out_until_it_dies(
    start_trainer: StartTrainer,
    data: Path,
    out: Path,
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = command(data, out, steps=60, checkpoint_every=7)
    process = start_trainer(*command(data, out, steps=10**6, checkpoint_every=10**6))
    journal = out / "metrics.jsonl"
    wait_for(lambda: journal.exists() and journal.stat().st_size > 0, process)
    for more in ([], ["--resume"]):
        assert main([*arguments, *more]) == 1
        assert capsys.readouterr().err == f"trainer: {out} is in use by another trainer\n"
    assert kill(process)
    assert main([*arguments, "--resume"]) == 1
    assert "cannot be resumed with these settings: steps was 1000000, is 60" in (
        capsys.readouterr().err
    )


def test_resuming_before_there_is_a_run_begins_one(
    make_settings: MakeSettings, out: Path, unbroken: Path
) -> None:
    train(make_settings(out, resume=True))
    assert_same_run(out, unbroken)


@pytest.mark.parametrize("limit", ["--max-tokens 1500", "--max-time 1e-9"])
def test_a_run_in_many_sessions_is_the_run_in_one(
    limit: str, data: Path, out: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(data, out, steps=60, checkpoint_every=20)
    assert main([*arguments, *limit.split()]) == 0
    step = RunDirectory(out).checkpoint_steps()[-1]
    assert step == (24 if "tokens" in limit else 1)  # 64 tokens a step
    told = capsys.readouterr().err.splitlines()
    assert told[-2] == f"stopped after step {step} ({limit.replace('1e-9', '1e-09')}); go on with"
    assert main(told[-1].split()[1:]) == 0  # without the limit
    assert_same_run(out, undisturbed)


def test_a_run_that_has_seen_its_tokens_makes_no_further_update(
    stopped: Path, make_settings: MakeSettings
) -> None:
    train(make_settings(stopped, resume=True, max_tokens=500))  # 64 a step, and it is at step 8
    run = RunDirectory(stopped)
    assert run.checkpoint_steps()[-1] == 8
    assert run.journal.read()[-1]["reason"] == "--max-tokens 500"


def test_a_run_goes_on_from_the_step_that_is_named(
    finished: Path, make_settings: MakeSettings, unbroken: Path
) -> None:
    (finished / RESULT).write_bytes(b"older than what is made now")
    train(make_settings(finished, resume_step=6))
    assert_same_run(finished, unbroken)


def test_a_mistaken_step_changes_nothing(
    finished: Path, make_settings: MakeSettings, unbroken: Path
) -> None:
    with pytest.raises(ValueError, match="must hold the checkpoint of step 7"):
        train(make_settings(finished, resume_step=7))
    assert_same_run(finished, unbroken)
    assert RunDirectory(finished).is_finished()


def test_a_damaged_newest_checkpoint_costs_only_the_updates_since_the_one_before(
    stopped: Path, make_settings: MakeSettings, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "checkpoints" / "step-00000008" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    train(make_settings(stopped, resume=True))
    assert_same_run(stopped, unbroken)
    assert "trying the checkpoint before it" in capsys.readouterr().err


def test_a_clock_that_goes_backwards_changes_nothing(
    out: Path, make_settings: MakeSettings, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = count(2e9, -1000)
    monkeypatch.setattr(time, "time", lambda: next(now))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(now) * 1e9))
    train(make_settings(out))
    assert_same_run(out, unbroken)


def test_lines_past_the_checkpoint_are_dropped(
    stopped: Path, make_settings: MakeSettings, unbroken: Path
) -> None:
    assert journal(stopped)[-1]["step"] == 12  # while the checkpoint is of step 8
    train(make_settings(stopped, resume=True))
    assert_same_run(stopped, unbroken)


def test_a_missing_evaluation_is_made_up_for(
    finished: Path, make_settings: MakeSettings, unbroken: Path
) -> None:
    path = finished / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    train(make_settings(finished, resume=True))
    assert_same_run(finished, unbroken)


def test_an_evaluation_that_the_kill_prevented_is_made_up_for_in_its_place(
    make_settings: MakeSettings, out: Path, tmp_path: Path
) -> None:
    settings = {"checkpoint_every": 6, "evaluate_every": 6}
    expected = train(make_settings(tmp_path / "expected", **settings)).path
    shutil.copytree(expected, out)
    shutil.rmtree(out / "checkpoints" / "step-00000012")
    (out / RESULT).unlink()
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(lines[:6]))  # step 6, but not its evaluation
    train(make_settings(out, resume=True, **settings))
    assert_same_run(out, expected)


@pytest.mark.parametrize(
    "torn", ['{"step": 9, "tok', '{"step": 13, "tokens": 832, "seconds": 9.9}']
)
def test_a_torn_last_line_is_no_obstacle(
    torn: str, stopped: Path, make_settings: MakeSettings, unbroken: Path
) -> None:
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write(torn)
    train(make_settings(stopped, resume=True))
    assert_same_run(stopped, unbroken)


def test_a_damaged_line_before_is_refused_and_nothing_lost(
    stopped: Path, make_settings: MakeSettings
) -> None:
    path = stopped / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[3][:20] + "\n", *lines[4:]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 4 must be JSON"):
        train(make_settings(stopped, resume=True))
    assert path.read_bytes() == before


def test_a_lost_journal_is_refused(stopped: Path, make_settings: MakeSettings) -> None:
    journal = stopped / "metrics.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:7] + lines[9:]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl must hold the line of step 8, got none"):
        train(make_settings(stopped, resume=True))


def test_a_file_that_outgrows_its_limit_leaves_the_last_checkpoint(
    stopped: Path, unbroken: Path, make_settings: MakeSettings
) -> None:
    resource = pytest.importorskip("resource", reason="there are no such limits on Windows")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a checkpoint takes more
    try:
        with pytest.raises(OSError, match="File too large"):
            train(make_settings(stopped, resume=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = sorted(path.name for path in (stopped / "checkpoints").glob("step-*"))
    assert left == ["step-00000004", "step-00000006", "step-00000008"]
    train(make_settings(stopped, resume=True))
    assert_same_run(stopped, unbroken)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 680 kB, where one may mount some."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=680k", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this needs the right to mount: {error}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(
    small_disk: Path, make_settings: MakeSettings, unbroken: Path
) -> None:
    settings = make_settings(small_disk / "run", resume=True)
    with pytest.raises(OSError, match="No space left on device"):
        train(settings)
    left = sorted(path.name for path in (small_disk / "run" / "checkpoints").glob("step-*"))
    assert left == ["step-00000004", "step-00000006", "step-00000008"]
    shutil.rmtree(small_disk / "run" / "checkpoints" / "step-00000004")  # make room
    train(settings)
    assert_same_run(small_disk / "run", unbroken)
