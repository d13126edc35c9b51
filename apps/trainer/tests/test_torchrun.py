"""Started by torchrun itself: a process that is killed is started again, and the run goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from scratch.trainer.config import TrainSettings
from scratch.trainer.runs.journal import Journal
from scratch.trainer.runs.run import RunDirectory

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MakeSettings = Callable[..., TrainSettings]
Start = Callable[..., psutil.Popen]

STEPS = 60


@pytest.fixture
def start(
    make_settings: MakeSettings, free_port: Callable[[], int], tmp_path: Path
) -> Iterator[Start]:
    """Return a starter of torchrun with a training on two processes; it leaves none of them."""
    started: list[psutil.Popen] = []

    def start_torchrun(
        out: Path, *more: object, restarts: int = 0, agents: Sequence[object] = ()
    ) -> psutil.Popen:
        settings = make_settings(out)
        model = settings.model
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--max-restarts", restarts),
            *(agents or ("--nproc-per-node", 2, "--master-port", free_port())),
            *("-m", "scratch.trainer", "train"),
            *("--data", settings.data, "--out", out, "--device", "cpu", "--parallel", "fsdp"),
            *("--steps", STEPS, "--batch-size", 4, "--checkpoint-every", 5, "--log-every", 5),
            *("--model.context-length", model.context_length, "--model.d-model", model.d_model),
            *("--model.num-layers", 1, "--model.num-heads", 2, "--resume", *more),
        ]
        with out.with_suffix(".txt").open("ab") as output:
            started.append(
                psutil.Popen(
                    list(map(str, command)),
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
        return started[-1]

    yield start_torchrun
    for process in started:
        if process.is_running():
            for child in process.children(recursive=True):
                child.kill()
            process.kill()


def wait_for_checkpoint(out: Path, step: int, process: psutil.Popen) -> None:
    for _ in range(6000):
        if any(found >= step for found in RunDirectory(out).checkpoint_steps()):
            return
        assert process.poll() is None, out.with_suffix(".txt").read_text()
        time.sleep(0.02)
    pytest.fail(out.with_suffix(".txt").read_text())


def worker(process: psutil.Popen, rank: int) -> psutil.Process:
    (found,) = (
        child
        for child in process.children(recursive=True)
        if child.environ().get("RANK") == str(rank)
    )
    return found


def losses(out: Path) -> list[tuple[int, float, float]]:
    records = Journal(out / "metrics.jsonl").read()
    return [(r["step"], r["loss"], r["grad_norm"]) for r in records if "loss" in r]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_changes_nothing_about_the_run(
    start: Start, tmp_path: Path, rank: int
) -> None:
    unbroken = start(tmp_path / "unbroken")
    assert unbroken.wait(120) == 0
    process = start(tmp_path / "killed", restarts=1)
    wait_for_checkpoint(tmp_path / "killed", 10, process)
    worker(process, rank).kill()
    assert process.wait(120) == 0, (tmp_path / "killed.txt").read_text()
    printed = (tmp_path / "killed.txt").read_text()
    assert "going on after step" in printed
    assert losses(tmp_path / "killed") == losses(tmp_path / "unbroken")
    killed, whole = ((tmp_path / name / "model.safetensors") for name in ("killed", "unbroken"))
    assert killed.read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


@pytest.mark.parametrize("node", [0, 1])
def test_machines_that_count_restarts_for_themselves_meet_again(
    start: Start, free_port: Callable[[], int], tmp_path: Path, node: int
) -> None:
    """A process of one machine is killed; the agent of the other restarts its own uncounted."""
    where = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}")
    agents = ("--nnodes", 2, "--nproc-per-node", 1, *where)
    out = tmp_path / "run"
    machines = [start(out, restarts=3, agents=agents) for _ in range(2)]
    wait_for_checkpoint(out, 10, machines[0])
    (found,) = (c for c in machines[node].children(recursive=True) if "RANK" in c.environ())
    found.kill()
    assert [machine.wait(120) for machine in machines] == [0, 0], out.with_suffix(
        ".txt"
    ).read_text()
    assert [step for step, *_ in losses(out)] == list(range(1, STEPS + 1))
    assert "going on after step" in out.with_suffix(".txt").read_text()


def test_without_restarts_all_end_and_the_first_one_is_told(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--steps", 100_000)
    wait_for_checkpoint(tmp_path / "run", 5, process)
    workers = [worker(process, rank) for rank in (0, 1)]
    workers[1].kill()
    assert process.wait(60) == 1
    assert not any(each.is_running() for each in workers)
    assert "Signal 9 (SIGKILL) received" in (tmp_path / "run.txt").read_text()
    assert Journal(tmp_path / "run" / "metrics.jsonl").read()[-1]["event"] == "failed"


def test_an_end_asked_of_torchrun_is_one_in_good_order(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--steps", 100_000)
    wait_for_checkpoint(tmp_path / "run", 5, process)
    workers = [worker(process, rank) for rank in (0, 1)]
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert not any(each.is_running() for each in workers)
    last = Journal(tmp_path / "run" / "metrics.jsonl").read()[-1]
    assert (last["event"], last["reason"]) == ("stopped", "SIGTERM")
    assert RunDirectory(tmp_path / "run").checkpoint_steps()[-1] == last["step"]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_mistake_is_told_once_and_by_torchrun(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--batch-size", 5)
    assert process.wait(60) == 1
    printed = (tmp_path / "run.txt").read_text()
    assert printed.count("trainer: batch_size must be a multiple of the number of processes") == 1
    assert "ValueError: batch_size must be a multiple" in printed  # of torchrun's own account
