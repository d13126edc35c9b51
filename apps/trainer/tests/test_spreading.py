"""Several processes train one run, and it is the run of one process."""

import json
import math
import os
import runpy
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from scratch.train import World
from scratch.trainer.config import TrainSettings
from scratch.trainer.data.prepared import PreparedData
from scratch.trainer.runs.journal import FollowedJournal, Journal
from scratch.trainer.runs.run import RunDirectory
from scratch.trainer.training.signals import Signals
from scratch.trainer.training.spreading import (
    choose_parallel,
    lost_processes_told,
    resuming_command,
)
from scratch.trainer.training.stopping import Limits
from scratch.trainer.training.train import train
from scratch.trainer.using.score import evaluate_tokens

PROGRAM = Path(__file__).with_name("one_of_several.py")
BATCH = 8
# The acceptance bound in float32. What is found is a tenth of it: sums are taken in another order.
CLOSE = {"rtol": 0.0, "atol": 1e-5}

MakeSettings = Callable[..., TrainSettings]


class Together:
    """Processes of one training, and what they print."""

    def __init__(self, processes: list[BaseProcess], outputs: list[Path]) -> None:
        self.processes, self.outputs = processes, outputs

    def printed(self, rank: int = 0) -> str:
        return self.outputs[rank].read_text() if self.outputs[rank].exists() else ""

    def join(self) -> list[int | None]:
        """Return how they ended; none is left."""
        for process in self.processes:
            process.join(120)
        return [process.exitcode for process in self.processes]


StartTogether = Callable[..., Together]


@pytest.fixture
def start_together(
    start_trainer: object, free_port: Callable[[], int], tmp_path: Path
) -> Iterator[StartTogether]:
    """Return a starter of a training on several processes, `start(number, *arguments)`.

    They are forked from the server that `start_trainer` has prepared. `broken` names a rank, the
    number of the loss at which it breaks, and what it breaks by; `own` a rank and its own flags.
    """
    context = get_context("forkserver")
    started: list[Together] = []

    def start(
        number: int,
        *arguments: object,
        broken: tuple[int, int, Any] | None = None,
        own: tuple[int, list[object]] | None = None,
    ) -> Together:
        port = free_port()
        processes, outputs = [], []
        for rank in range(number):
            output = tmp_path / f"output-{len(started)}-{rank}.txt"
            here = broken is not None and broken[0] == rank
            more = own[1] if own is not None and own[0] == rank else []
            given = {
                "ARGUMENTS": list(map(str, [*arguments, *more])),
                "ENVIRONMENT": {
                    "RANK": str(rank),
                    "WORLD_SIZE": str(number),
                    "LOCAL_RANK": str(rank),
                    "LOCAL_WORLD_SIZE": str(number),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
                "OUTPUT": str(output),
                "BREAK_AT": broken[1] if here else None,
                "BREAK_BY": broken[2] if here else None,
            }
            process = context.Process(
                target=runpy.run_path, args=(str(PROGRAM), given), kwargs={"run_name": "__main__"}
            )
            process.start()
            processes.append(process)
            outputs.append(output)
        started.append(Together(processes, outputs))
        return started[-1]

    yield start
    for together in started:
        for process in together.processes:
            process.kill()
            process.join()


def flags(settings: TrainSettings, *more: object) -> list[object]:
    """Return the command line that trains as the settings say, on the CPU."""
    model = settings.model
    return [
        *("train", "--data", settings.data, "--out", settings.out, "--device", "cpu"),
        *("--steps", settings.steps, "--batch-size", settings.batch_size),
        *("--checkpoint-every", settings.checkpoint_every, "--keep-checkpoints", 9),
        *("--evaluate-every", settings.evaluate_every, "--log-every", settings.log_every),
        *("--optimizer.lr", settings.optimizer.lr, "--optimizer.kind", settings.optimizer.kind),
        *("--model.context-length", model.context_length, "--model.d-model", model.d_model),
        *("--model.num-layers", model.num_layers, "--model.num-heads", model.num_heads),
        *more,
    ]


@pytest.fixture(scope="session")
def alone(make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """Return the settings of a run of 20 steps of 8 sequences, which one process has made."""
    out = tmp_path_factory.mktemp("alone") / "run"
    settings = make_settings(
        out, steps=20, batch_size=BATCH, evaluate_every=10, sample_every=10, log_every=5
    )
    train(settings)
    return settings


def lines(run: Path, key: str) -> dict[int, Any]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record[key] for record in records if key in record}


def assert_same_training(run: Path, expected: Path) -> None:
    """Assert that losses, norms and weights of two runs are close, and their texts equal."""
    for key in ("loss", "grad_norm", "val_loss", "tokens"):
        found, wanted = lines(run, key), lines(expected, key)
        assert list(found) == list(wanted)
        assert_close(list(found.values()), list(wanted.values()), **CLOSE)
    found, wanted = (load_file(path / "model.safetensors") for path in (run, expected))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert_close(found[name], tensor, rtol=0.0, atol=1e-4)  # lr 0.01, where a sign may turn


@pytest.mark.distributed
@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_two_processes_train_as_one(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether, parallel: str
) -> None:
    settings = alone.model_copy(update={"out": tmp_path / "run"})
    arguments = flags(settings, "--parallel", parallel, "--micro-batch", 3, "--sample-every", 10)
    together = start_together(2, *arguments)
    assert together.join() == [0, 0], together.printed(1)
    assert_same_training(settings.out, alone.out)
    assert lines(settings.out, "sample") == lines(alone.out, "sample")
    assert together.printed(1) == ""  # one of them speaks
    assert "on 2 processes on cpu" in together.printed(0)
    names = {path.name for path in (settings.out / "checkpoints" / "step-00000020").iterdir()}
    assert {"checkpoint.json", ".metadata"} <= names
    assert (settings.out / "checkpoints" / "latest").read_text() == "step-00000020\n"
    environment = json.loads((settings.out / "environment.json").read_text())
    assert environment["processes"] == 2
    # And what they have saved is read by one.
    model = RunDirectory(settings.out).load_model(device="cpu", checkpoint=20)
    weights = load_file(settings.out / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert_close(tensor, weights[name], rtol=0.0, atol=0.0)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_four_processes_in_two_groups_train_as_one(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether, kind: str
) -> None:
    optimizer = alone.optimizer.model_copy(update={"kind": kind})
    expected = alone.model_copy(update={"out": tmp_path / "alone", "optimizer": optimizer})
    train(expected)
    settings = expected.model_copy(update={"out": tmp_path / "run"})
    arguments = flags(settings, "--parallel", "hsdp", "--group-size", 2, "--micro-batch", 1)
    assert start_together(4, *arguments).join() == [0, 0, 0, 0]
    if kind == "adamw":
        assert_same_training(settings.out, expected.out)
    else:  # Newton and Schulz's iteration is in bfloat16, which makes more of the last digits
        for key in ("loss", "grad_norm"):
            found, wanted = lines(settings.out, key), lines(expected.out, key)
            assert_close(list(found.values()), list(wanted.values()), rtol=0.0, atol=2e-2)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether
) -> None:
    settings = alone.model_copy(update={"out": tmp_path / "run"})
    tokens = BATCH * settings.model.context_length
    ways = [
        (2, "fsdp", 4),
        (1, "auto", 8),
        (4, "hsdp", 12),
        (2, "ddp", 16),
        (4, "fsdp", None),
    ]
    for number, parallel, stop in ways:
        more = ["--resume", "--parallel", parallel, "--group-size", 2]
        if stop is not None:
            more += ["--max-tokens", stop * tokens]
        if number == 1:
            train(settings.model_copy(update={"resume": True, "max_tokens": stop * tokens}))
        else:
            together = start_together(number, *flags(settings, *more, "--sample-every", 10))
            assert together.join() == number * [0], together.printed(0)
    assert_same_training(settings.out, alone.out)
    assert sorted(path.name for path in (settings.out / "checkpoints").glob("step-*")) == [
        f"step-{step:08}" for step in (4, 8, 10, 12, 16, 20)
    ]


@pytest.mark.distributed
@pytest.mark.slow
def test_a_process_that_sees_a_nan_stops_all(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether
) -> None:
    settings = alone.model_copy(update={"out": tmp_path / "run"})
    arguments = flags(settings, "--parallel", "fsdp")
    together = start_together(2, *arguments, broken=(1, 7, math.nan))
    assert together.join() == [1, 1]
    assert "step 7: loss and gradient norm must be finite, got loss nan" in together.printed(0)
    journal = Journal(settings.out / "metrics.jsonl").read()
    assert journal[-1]["event"] == "diverged"
    assert [record["step"] for record in journal if record.get("loss") is None] == [7, 8]
    assert RunDirectory(settings.out).checkpoint_steps() == [4]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_all_with_its_traceback(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether, rank: int
) -> None:
    settings = alone.model_copy(update={"out": tmp_path / "run"})
    arguments = flags(settings, "--parallel", "fsdp")
    together = start_together(2, *arguments, broken=(rank, 7, RuntimeError("a cosmic ray")))
    assert together.join() == [1, 1]
    assert "Traceback" in together.printed(rank)
    assert "RuntimeError: a cosmic ray" in together.printed(rank)
    assert f"trainer: process {1 - rank} of 2 lost another one" in together.printed(1 - rank)
    assert RunDirectory(settings.out).checkpoint_steps() == [4]
    assert not list((settings.out / "checkpoints").glob(".*"))
    assert Journal(settings.out / "metrics.jsonl").read()[-1]["event"] == "failed"


@pytest.mark.distributed
@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_in_good_order(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether
) -> None:
    settings = alone.model_copy(update={"out": tmp_path / "run", "steps": 10_000})
    together = start_together(2, *flags(settings, "--parallel", "ddp"))
    while not (settings.out / "checkpoints" / "latest").exists():
        assert together.processes[0].is_alive()
        time.sleep(0.05)
    os.kill(together.processes[1].pid or 0, signal.SIGTERM)
    assert together.join() == [0, 0]
    last = Journal(settings.out / "metrics.jsonl").read()[-1]
    assert (last["event"], last["reason"]) == ("stopped", "SIGTERM")
    assert RunDirectory(settings.out).checkpoint_steps()[-1] == last["step"]
    assert "torchrun --nproc-per-node 2 -m scratch.trainer train" in together.printed(0)


@pytest.mark.distributed
@pytest.mark.slow
def test_processes_agree_on_a_time_that_each_has_of_its_own(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether
) -> None:
    settings = alone.model_copy(update={"out": tmp_path / "run"})
    arguments = flags(settings, "--parallel", "fsdp", "--train-seconds", 2)
    at = arguments.index("--steps")
    del arguments[at : at + 2]
    together = start_together(2, *arguments)
    assert together.join() == [0, 0], together.printed(0)
    assert Journal(settings.out / "metrics.jsonl").read()[-1]["event"] == "finished"


@pytest.mark.distributed
@pytest.mark.slow
def test_rounded_products_are_those_of_one_process(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether
) -> None:
    """In bfloat16 too, and evaluations are in float32 as ever."""
    expected = alone.model_copy(update={"out": tmp_path / "alone", "precision": "bfloat16"})
    train(expected)
    settings = expected.model_copy(update={"out": tmp_path / "run"})
    arguments = flags(settings, "--parallel", "fsdp", "--precision", "bfloat16")
    assert start_together(2, *arguments).join() == [0, 0]
    for key in ("loss", "val_loss"):
        found, wanted = lines(settings.out, key), lines(expected.out, key)
        # Another order of sums turns the last bit of some product, of eight.
        assert_close(list(found.values()), list(wanted.values()), rtol=0.0, atol=1e-2)
    model = RunDirectory(settings.out).load_model(device="cpu")
    data = PreparedData.open(settings.data)
    assert data.validation is not None
    assert lines(settings.out, "val_loss")[20] == evaluate_tokens(model, data.validation).loss


@pytest.mark.distributed
@pytest.mark.slow
def test_processes_that_were_told_different_things_do_not_train(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether
) -> None:
    settings = alone.model_copy(update={"out": tmp_path / "run"})
    together = start_together(2, *flags(settings), own=(1, ["--seed", 1]))
    assert together.join() == [1, 1]
    assert "must have the same settings and data; process 1 differs in seed" in together.printed(0)
    together = start_together(2, *flags(settings), own=(1, ["--out", tmp_path / "elsewhere"]))
    assert together.join() == [1, 1]
    assert "must have the same settings and data; process 1 differs in out" in together.printed(0)


@pytest.mark.distributed
@pytest.mark.slow
def test_blocks_are_compiled_one_by_one(
    alone: TrainSettings, tmp_path: Path, start_together: StartTogether
) -> None:
    settings = alone.model_copy(update={"out": tmp_path / "run", "steps": 20})
    together = start_together(2, *flags(settings, "--parallel", "fsdp", "--compile", "on"))
    assert together.join() == [0, 0], together.printed(0)
    assert_same_training(settings.out, alone.out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6}, "batch_size must be a multiple .* got 6 for 4 .* --batch-size 8"),
        ({"parallel": "none"}, "parallel must not be none for 4 processes"),
        ({"micro_batch_size": "auto"}, "micro_batch_size must be a number for 4 processes"),
        ({"device": "cuda:1"}, "device must be auto, cuda or cpu for 4 processes, .* cuda:1"),
        ({"parallel": "hsdp", "group_size": 3}, "group_size must divide .* got 3 for 4"),
    ],
)
def test_what_processes_cannot_share_is_told(
    make_settings: MakeSettings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = make_settings(tmp_path, **{"batch_size": 8, **changes})
    with pytest.raises(ValueError, match=message):
        choose_parallel(settings, World(0, 4, 0, 4))


def test_a_process_on_its_own_has_everything(make_settings: MakeSettings, tmp_path: Path) -> None:
    for parallel in ("auto", "none", "ddp", "fsdp", "hsdp"):
        settings = make_settings(tmp_path, parallel=parallel, group_size=3)
        assert choose_parallel(settings, World()) == "none"
    several = World(0, 4, 0, 2)
    assert choose_parallel(make_settings(tmp_path, batch_size=8), several) == "ddp"
    going_on = "train --config config.toml --resume"
    config = Path("config.toml")
    assert resuming_command(config, World()) == f"trainer {going_on}"
    expected = f"torchrun --nproc-per-node 4 -m scratch.trainer {going_on}"
    assert resuming_command(config, World(0, 4, 0, 4)) == expected
    assert resuming_command(config, several) == "the same command on each machine, with --resume"


def test_only_a_lost_connection_is_a_lost_process() -> None:
    lost = pytest.raises(ConnectionError, match="process 1 of 2 lost another one")
    with lost, lost_processes_told(World(1, 2, 1, 2)):
        raise RuntimeError("[pair.cc:545] Read error: Connection closed by peer")
    for world, message in ((World(1, 2, 1, 2), "a shape"), (World(), "closed by peer")):
        with pytest.raises(RuntimeError, match=message), lost_processes_told(world):
            raise RuntimeError(message)


def test_a_followed_journal_knows_what_is_written_without_writing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written, followed = Journal(path), FollowedJournal(path)
    first = [{"step": step, "tokens": step, "seconds": 0.5, "loss": 1.0} for step in (1, 2)]
    written.append(first)
    before = path.read_bytes()
    followed.begin_with(written.read())
    followed.append([{"step": 2, "val_loss": 3.0}, {"step": 3, "loss": math.inf}])
    followed.end(3, "stopped", "SIGTERM")
    assert followed.read()[2:4] == [{"step": 2, "val_loss": 3.0}, {"step": 3, "loss": None}]
    assert followed.held_out_losses() == {2: 3.0}
    assert followed.go_back_to(2) == {"step": 2, "tokens": 2, "seconds": 0.5}
    assert [record["step"] for record in followed.read()] == [1, 2, 2]
    assert path.read_bytes() == before


def test_several_processes_ask_each_other_now_and_then_whether_to_stop(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def first(self: World, value: str | None) -> str | None:
        asked.append(value)
        return value or "of another"

    monkeypatch.setattr(World, "first", first)
    limits = Limits(make_settings(tmp_path, max_tokens=100), Signals(), World(0, 2, 0, 2))
    monkeypatch.setattr(World, "from_main", lambda _, __: 5)  # updates until they ask again
    assert limits.reached(1, 10, at_a_look=True) == "of another"
    for number in range(2, 6):
        assert limits.reached(number, 99, at_a_look=False) is None
    assert limits.reached(5, 100, at_a_look=False) == "--max-tokens 100"  # which all of them know
    assert asked == [None]
    assert limits.reached(6, 10, at_a_look=False) == "of another"
    assert asked == [None, None]
