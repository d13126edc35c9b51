"""Most sweeps here start no process: a function stands in that writes what a training writes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from scratch.trainer import cli
from scratch.trainer.commands import ReportSettings, SweepSettings
from scratch.trainer.config import TrainSettings
from scratch.trainer.sweep.sweep import print_sweep
from scratch.trainer.toml import dump_toml


class Stand:
    """Stands in for a training: ends at once, or when it is told to."""

    def __init__(self, code: int | None, polls: int = 0) -> None:
        self.code, self._polls = code, polls
        self.ended_by = ""

    def is_at_work(self) -> bool:
        return self.code is None or self._polls >= 0

    def poll(self) -> int | None:
        self._polls -= 1
        return None if self.is_at_work() else self.code

    def wait(self) -> int:
        assert self.code is not None, "it would never end"
        return self.code

    def terminate(self) -> None:
        self.code, self.ended_by = 0, "terminate"

    def kill(self) -> None:
        self.code, self.ended_by = -9, "kill"


class Trainings:
    """Starts stand-ins, which reach held-out losses by the learning rate and the seed."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.parallel: list[int] = []
        self.endings: dict[str, Callable[[Path, Path], int | None]] = {}
        self.stands: list[Stand] = []
        self.at_work: list[int] = []
        self.polls = 0

    def __call__(self, arguments: Sequence[str], log: Path, parallel: int) -> Stand:
        assert arguments[0] == "train"
        assert arguments[-1] == "--resume"
        settings = cli.parse(list(arguments))
        assert isinstance(settings, TrainSettings)
        self.started.append(settings.out.name)
        self.parallel.append(parallel)
        loss = 3 + abs(settings.optimizer.lr - 0.003) + 0.1 * settings.seed
        ending = self.endings.get(settings.out.name)
        write_run(settings, loss, "finished" if ending is None else "")
        stand = Stand(0 if ending is None else ending(settings.out, log), self.polls)
        self.at_work.append(1 + sum(stand.is_at_work() for stand in self.stands))
        self.stands.append(stand)
        return stand


def write_run(settings: TrainSettings, loss: float, event: str) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "config.toml").write_text(
        dump_toml(settings, leave_out=frozenset({"config", "resume"}))
    )
    totals = {"step": 3, "tokens": 300, "seconds": 2.0}
    lines: list[dict[str, Any]] = [
        {**totals, "loss": loss, "lr": 0.1, "grad_norm": 1.0, "tokens_per_second": 150.0},
        {**totals, "val_loss": loss, "val_perplexity": 20.0, "val_bits_per_byte": loss / 4},
    ]
    if event:
        lines.append({"step": 3, "event": event, "reason": ""})
    (settings.out / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def end(path: Path, event: str, reason: str) -> None:
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "event": event, "reason": reason}) + "\n")


@pytest.fixture
def trainings() -> Trainings:
    return Trainings()


@pytest.fixture
def common(tmp_path: Path) -> tuple[str, ...]:
    """Return flags for all trainings: data that looks as if it were there, and a length."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    return ("--data", str(tmp_path / "data"), "--steps", "3")


@pytest.fixture
def sweep(
    tmp_path: Path, common: tuple[str, ...], trainings: Trainings
) -> Callable[..., list[ReportSettings]]:
    """Return a function that does a sweep with stand-ins, and returns the reports it asked for."""

    def do(*vary: str, **changes: Any) -> list[ReportSettings]:
        values = {"out": tmp_path / "sweep", "vary": vary, "train": common, **changes}
        reports: list[ReportSettings] = []
        print_sweep(SweepSettings(**values), start=trainings, write_report=reports.append)
        return reports

    return do


LR = "optimizer.lr=1e-3,3e-3,1e-2"


# --- what is trained


def test_each_combination_is_trained_and_the_best_is_told(
    sweep: Callable[..., Any], trainings: Trainings, tmp_path: Path, capsys: Any
) -> None:
    reports = sweep(LR)
    out = tmp_path / "sweep"
    assert trainings.started == ["optimizer.lr=1e-3", "optimizer.lr=3e-3", "optimizer.lr=1e-2"]
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if "finished" in line]
    assert [row.split()[1] for row in rows] == ["3e-3", "1e-3", "1e-2"]
    assert "3.0000" in rows[0]
    assert "0.75" in rows[0]
    assert all(len(line) <= 80 for line in printed.splitlines() if "│" in line)
    assert f"best: optimizer.lr=3e-3\n  again:     trainer train --data {tmp_path}" in printed
    assert f"--optimizer.lr 3e-3 --out {tmp_path}/sweep-best" in printed
    assert f"trainer generate {out}/optimizer.lr=3e-3" in printed
    assert reports == [ReportSettings(runs=(out,), out=out / "report.html")]


def test_json_is_one_object(
    sweep: Callable[..., Any], trainings: Trainings, tmp_path: Path, capsys: Any
) -> None:
    trainings.endings["optimizer.lr=1e-2"] = diverge
    sweep(LR, json_output=True)
    answer = json.loads(capsys.readouterr().out)
    assert [run["status"] for run in answer["runs"]] == ["finished", "finished", "diverged"]
    assert answer["runs"][0]["settings"] == {"optimizer.lr": "3e-3"}
    assert answer["runs"][0]["val_bits_per_byte"] == 0.75
    assert answer["best"]["name"] == "optimizer.lr=3e-3"
    again = cli.parse(answer["best"]["command"][1:])
    assert isinstance(again, TrainSettings)
    assert (again.optimizer.lr, again.steps, again.resume) == (0.003, 3, False)
    assert answer["report"] == str(tmp_path / "sweep" / "report.html")


def test_a_lucky_seed_does_not_win(
    sweep: Callable[..., Any], trainings: Trainings, capsys: Any
) -> None:
    def luck(path: Path, _: Path) -> int:
        settings = cli.parse(["train", "--config", str(path / "config.toml")])
        assert isinstance(settings, TrainSettings)
        write_run(settings, 2.95, "finished")
        return 0

    trainings.endings["optimizer.lr=0.5,seed=0"] = luck  # its other seed is at 3.597
    sweep("optimizer.lr=0.5,3e-3", "seed=0,1")
    printed = capsys.readouterr().out
    assert "best: optimizer.lr=3e-3,seed=0, 3.0500 ± 0.0707 over 2 seeds" in printed


def test_settings_that_diverged_with_one_seed_do_not_win(
    sweep: Callable[..., Any], trainings: Trainings, tmp_path: Path, capsys: Any
) -> None:
    trainings.endings["optimizer.lr=3e-3,seed=1"] = diverge
    sweep("optimizer.lr=1e-3,3e-3", "seed=0,1")
    assert "best: optimizer.lr=1e-3,seed=0, 3.0520" in capsys.readouterr().out
    trainings.endings["optimizer.lr=2e-3,seed=1"] = diverge
    sweep("optimizer.lr=2e-3", "seed=0,1", out=tmp_path / "alone")
    assert "best: optimizer.lr=2e-3,seed=0\n" in capsys.readouterr().out


def test_figures_stay_whole_beside_many_settings(sweep: Callable[..., Any], capsys: Any) -> None:
    sweep(
        case=(
            "model.norm=none model.position=none seed=1 optimizer.warmup_fraction=0.5 log_every=3",
        )
    )
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines()[:5])
    for figure in ("held-out", "3.1020", "150", "finished"):
        assert f" {figure} " in printed


def diverge(path: Path, _: Path) -> int:
    end(path, "diverged", "step 3: the training diverges")
    return 1


def fail(_: Path, log: Path) -> int:
    log.write_text("beginning\ntrainer: num_heads must divide d_model\n\n")
    return 1


def test_a_training_that_diverges_is_a_result_and_not_done_again(
    sweep: Callable[..., Any], trainings: Trainings, capsys: Any
) -> None:
    trainings.endings["optimizer.lr=1e-2"] = diverge
    sweep(LR)
    assert "optimizer.lr=1e-2: diverged: step 3: the training diverges" in capsys.readouterr().out
    sweep(LR)
    assert len(trainings.started) == 3
    assert "3 of 3 trainings are done already" in capsys.readouterr().err


def test_a_training_that_fails_takes_nothing_along_and_is_tried_again(
    sweep: Callable[..., Any], trainings: Trainings, capsys: Any
) -> None:
    trainings.endings["optimizer.lr=1e-3"] = fail
    with pytest.raises(ValueError, match=r"^1 of 3 trainings failed: optimizer.lr=1e-3: num_heads"):
        sweep(LR)
    assert trainings.started[-1] == "optimizer.lr=1e-2"
    assert "best: optimizer.lr=3e-3" in capsys.readouterr().out
    trainings.endings.clear()
    sweep(LR)
    assert trainings.started[3:] == ["optimizer.lr=1e-3"]


def test_a_training_that_the_system_kills_is_told_as_that(
    sweep: Callable[..., Any], trainings: Trainings
) -> None:
    trainings.endings["seed=1"] = lambda _, __: -9
    with pytest.raises(ValueError, match=r"seed=1: ended by SIGKILL, as .* when memory runs out"):
        sweep("seed=1")


@pytest.mark.parametrize("parallel", [1, 3])
def test_so_many_are_at_work_at_a_time(
    sweep: Callable[..., Any], trainings: Trainings, parallel: int
) -> None:
    trainings.polls = 1
    sweep("seed=1,2,3,4", parallel=parallel)
    assert len(trainings.started) == 4
    assert max(trainings.at_work) == parallel
    assert trainings.parallel == [parallel] * 4


# --- taking it up again


def test_an_interrupted_sweep_leaves_nothing_running_and_goes_on(
    sweep: Callable[..., Any], trainings: Trainings, tmp_path: Path, capsys: Any
) -> None:
    def interrupt(path: Path, _: Path) -> None:
        end(path, "stopped", "SIGTERM")
        os.kill(os.getpid(), signal.SIGINT)

    trainings.endings["optimizer.lr=3e-3"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        sweep(LR)
    assert trainings.started == ["optimizer.lr=1e-3", "optimizer.lr=3e-3"]
    assert [stand.ended_by for stand in trainings.stands] == ["", "terminate"]
    assert f"to go on: trainer sweep --out {tmp_path}/sweep\n" in capsys.readouterr().err
    trainings.endings.clear()
    sweep(train=())  # it knows what it was to do
    assert trainings.started[2:] == ["optimizer.lr=3e-3", "optimizer.lr=1e-2"]


@pytest.mark.parametrize("event", ["finished", "stopped"])
def test_what_another_trainer_is_at_work_on_is_waited_for(
    sweep: Callable[..., Any], trainings: Trainings, tmp_path: Path, capsys: Any, event: str
) -> None:
    trainings.endings["optimizer.lr=3e-3"] = lambda *_: -9
    with pytest.raises(ValueError, match="1 of 1 trainings failed"):
        sweep("optimizer.lr=3e-3")
    path = tmp_path / "sweep" / "optimizer.lr=3e-3"
    lock = FileLock(path / ".lock")

    def let_go(*_: Path) -> int:
        end(path, event, "")
        lock.release()
        return 0

    trainings.endings = {"optimizer.lr=1e-2": let_go}
    with lock:
        sweep(LR, parallel=2)
    again = ["optimizer.lr=3e-3"] if event == "stopped" else []
    begun = ["optimizer.lr=1e-3", "optimizer.lr=1e-2", *again]
    assert trainings.started[1:] == begun, "what others have finished is not done again"
    assert "best: optimizer.lr=3e-3" in capsys.readouterr().out


def test_an_error_of_the_sweep_itself_leaves_nothing_running(
    sweep: Callable[..., Any], trainings: Trainings
) -> None:
    trainings.endings["seed=1"] = lambda _, __: None

    def no_more(_: Path, __: Path) -> int:
        raise OSError("no more processes")

    trainings.endings["seed=2"] = no_more
    with pytest.raises(OSError, match="no more processes"):
        sweep("seed=1,2", parallel=2)
    assert [stand.ended_by for stand in trainings.stands] == ["kill"]


def test_combinations_can_be_added(sweep: Callable[..., Any], trainings: Trainings) -> None:
    sweep("optimizer.lr=1e-3")
    sweep("optimizer.lr=1e-3,3e-3", "seed=1,2")
    assert trainings.started == [
        "optimizer.lr=1e-3",
        *(f"optimizer.lr={lr},seed={seed}" for lr in ("1e-3", "3e-3") for seed in (1, 2)),
    ]


def test_what_all_share_cannot_change(
    sweep: Callable[..., Any], trainings: Trainings, common: tuple[str, ...]
) -> None:
    sweep("optimizer.lr=1e-3")
    with pytest.raises(ValueError, match="other settings: batch_size was 32, is 8; combinations"):
        sweep("optimizer.lr=3e-3", train=(*common, "--batch-size", "8"))
    with pytest.raises(ValueError, match=r"model.norm was pre, is post; steps was 3, is 4; "):
        sweep("seed=4", train=(*common[:2], "--steps", "4", "--model.norm", "post"))
    assert trainings.started == ["optimizer.lr=1e-3"]


# --- told before anything is trained


@pytest.mark.parametrize(
    ("vary", "added", "message"),
    [
        (("optimizer.rl=1,2",), (), "did you mean optimizer.lr?"),
        (("optimizer.lr=1e-3,0.001",), (), "lr=1e-3 and optimizer.lr=0.001 are the same training"),
        (("seed=0",), ("--resume",), "a sweep goes on with what is not finished"),
        (("seed=0",), ("--out", "x"), "each run has its directory"),
        (("seed=0",), ("--train-seconds", "3"), "must have one of --steps, --train-tokens and"),
        (("data=nowhere",), (), "nowhere must hold prepared data, got no manifest.json"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    sweep: Callable[..., Any],
    trainings: Trainings,
    common: tuple[str, ...],
    tmp_path: Path,
    vary: tuple[str, ...],
    added: tuple[str, ...],
    message: str,
) -> None:
    flags = common[2:] if vary[0].startswith("data") else common
    with pytest.raises(ValueError, match=re.escape(message)):
        sweep(*vary, train=(*flags, *added))
    assert trainings.started == []
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("vary", ["model.norm=pre,sideways", "optimizer.lr=1e-3,fast"])
def test_a_bad_value_is_told_by_train_before_anything_is_trained(
    sweep: Callable[..., Any], trainings: Trainings, capsys: Any, vary: str
) -> None:
    with pytest.raises(SystemExit) as error:
        sweep(vary)
    assert error.value.code == 2
    told = capsys.readouterr().err
    assert vary.split(",")[-1] in told
    assert "train does not understand" in told
    assert trainings.started == []


def test_a_directory_with_another_plan_is_refused(
    sweep: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"format": "scratch-sweep", "version": 9}')
    with pytest.raises(ValueError, match=r"sweep.json must be the plan .* it is version 9"):
        sweep(LR)


def test_two_sweeps_in_one_directory_are_refused(
    sweep: Callable[..., Any], trainings: Trainings
) -> None:
    def another(_: Path, __: Path) -> int:
        trainings.endings.clear()
        with pytest.raises(ValueError, match="is in use by another sweep"):
            sweep(LR)
        return 0

    trainings.endings["optimizer.lr=1e-3"] = another
    sweep(LR)


def test_a_sweep_leaves_torch_to_its_trainings() -> None:
    code = "import sys, scratch.trainer.sweep.sweep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- for real


def test_a_sweep_of_real_trainings(
    data: Path, tmp_path: Path, start_trainer: Callable[..., BaseProcess], capsys: Any
) -> None:
    class Forked:
        def __init__(self, process: BaseProcess) -> None:
            self._process = process
            self.terminate, self.kill = process.terminate, process.kill

        def poll(self) -> int | None:
            return self._process.exitcode

        def wait(self) -> int:
            self._process.join()
            return self._process.exitcode or 0

    out = tmp_path / "sweep"
    settings = SweepSettings(
        out=out,
        vary=("optimizer.lr=1e-3,1e-1",),
        json_output=True,
        parallel=2,
        train=(
            *("--data", str(data), "--steps", "3", "--batch-size", "4"),
            *("--model.context-length", "16", "--model.d-model", "16", "--model.num-heads", "2"),
        ),
    )
    print_sweep(settings, start=lambda arguments, _, __: Forked(start_trainer(*arguments)))
    answer = json.loads(capsys.readouterr().out)
    assert {run["status"] for run in answer["runs"]} == {"finished"}
    losses = [run["val_loss"] for run in answer["runs"]]
    assert losses == sorted(losses)
    assert answer["best"]["path"] == answer["runs"][0]["path"]
    assert "optimizer.lr=1e-1" in (out / "report.html").read_text()
