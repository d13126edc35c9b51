"""What `trainer train` costs around the model, against a bare loop that does nothing else.

The bare loop has the same model, optimizer, batches and precision: forward pass, backward pass,
clipping, step. Its batches are in memory, it writes and checks nothing. Both train in turn, block
by block, in one process. Prints a JSON line for each job, with medians over the rounds.

    overhead   seconds of an update in the trainer / in the bare loop
    loader     seconds to make a batch / seconds of a bare update
    saving     seconds that a checkpoint takes away from training / seconds of a bare update
    start      seconds from the command to the end of the first update, imports not counted
    help       seconds of `trainer --help`, all counted
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from scratch.nn import fast_matmul
from scratch.optim import clip_grad_norm
from scratch.train import Batch, WindowSampler
from scratch.trainer.commands import PrepareSettings
from scratch.trainer.config import ModelSettings, OptimizerSettings, TrainSettings
from scratch.trainer.data.prepare import PreparedData, prepare
from scratch.trainer.data.stdlib_corpus import stdlib_sources
from scratch.trainer.process import keep_freed_memory, let_waiting_threads_sleep
from scratch.trainer.runs.journal import Journal
from scratch.trainer.runs.run import build_model, with_d_ff
from scratch.trainer.training.compiling import build_loss
from scratch.trainer.training.optimization import build_optimizer
from scratch.trainer.training.train import micro_batches, train

Facts = dict[str, Any]

SIZES = {
    # What `trainer quickstart` trains.
    "quickstart": {
        "batch_size": 16,
        "model": ModelSettings(
            context_length=128, d_model=192, num_layers=4, num_heads=6, start="identity"
        ),
    },
    # Larger: the width and the context of the preset `tinystories`, half its layers.
    "wide": {
        "batch_size": 8,
        "model": ModelSettings(
            context_length=256, d_model=512, d_ff=1344, num_layers=2, num_heads=16
        ),
    },
}
OF_EACH_SIZE = ("overhead", "loader", "saving")
WARM_UP_STEPS = 5


def main() -> None:
    """Measure the jobs that are asked for, and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        data = make_data(Path(folder))
        for job in options.jobs:
            for size in options.sizes if job in OF_EACH_SIZE else ("quickstart",):
                settings = TrainSettings(
                    data=data,
                    out=Path(folder, "never"),
                    steps=WARM_UP_STEPS + options.steps,
                    precision="auto",
                    checkpoint_every=10**9,
                    evaluate_every=10**9,
                    optimizer=OptimizerSettings(kind="muon", lr=0.004, muon_lr=0.004),
                    **SIZES[size],
                )
                with redirect_stderr(nowhere):
                    facts = JOBS[job](settings, options.rounds, Path(folder))
                print(json.dumps({"job": job, "size": size, **facts, **about(options)}), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", nargs="*", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40, help="updates of a block")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def make_data(folder: Path) -> Path:
    """Prepare the sources of the standard library, without holding any out."""
    corpus = folder / "corpus.txt"
    corpus.write_bytes(b"<|endoftext|>".join(stdlib_sources()[0]))
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        prepare(PrepareSettings(files=(corpus,), out=folder / "data", validation_fraction=0.0))
    return folder / "data"


class Bare:
    """A model that trains, and nothing else."""

    def __init__(self, settings: TrainSettings) -> None:
        data = PreparedData.open(settings.data)
        torch.manual_seed(settings.seed)
        model_settings = with_d_ff(settings.model)
        self.model = build_model(model_settings, vocab_size=data.tokenizer.vocab_size)
        self.sampler = WindowSampler(
            num_tokens=len(data.train),
            context_length=settings.model.context_length,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
        self.make: Callable[[int], list[Batch]] = lambda done: micro_batches(
            data.train, self.sampler, done, settings, self.model.head_weight.device
        )
        self.batches = [self.make(done) for done in range(settings.steps)]
        self.optimizer = build_optimizer(settings.optimizer, self.model)
        self.loss, _ = build_loss(settings.precision, "off", self.model, self.batches[0][0])

    def seconds(self, steps: int) -> float:
        """Return the seconds of an update, the mean over so many."""
        begin = time.perf_counter()
        for (batch,) in self.batches[:steps]:
            with fast_matmul():
                self.loss(self.model, batch).backward()
                clip_grad_norm(self.model.parameters(), 1.0)
                self.optimizer.step()
            self.optimizer.zero_grad()
        return (time.perf_counter() - begin) / steps


def trainer_seconds(settings: TrainSettings) -> float:
    """Return the seconds of an update in `trainer train`, the mean after some to warm up."""
    updates = [r for r in train(settings).journal.read() if "loss" in r]
    first, last = updates[WARM_UP_STEPS - 1], updates[-1]
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


def overhead(settings: TrainSettings, rounds: int, folder: Path) -> Facts:
    bare, steps = Bare(settings), settings.steps - WARM_UP_STEPS
    bare.seconds(WARM_UP_STEPS)
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):  # each is first as often as the other
        if number % 2:
            trained = trainer_seconds(fresh(settings, folder))
            pairs.append((bare.seconds(steps), trained))
        else:
            pairs.append((bare.seconds(steps), trainer_seconds(fresh(settings, folder))))
    return compared("bare_step_seconds", "trainer_step_seconds", pairs)


def loader(settings: TrainSettings, rounds: int, folder: Path) -> Facts:  # noqa: ARG001
    bare, steps = Bare(settings), settings.steps - WARM_UP_STEPS
    bare.seconds(WARM_UP_STEPS)
    places = count(settings.steps)

    def seconds() -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            bare.make(next(places))
        return (time.perf_counter() - begin) / steps

    pairs = [(bare.seconds(steps), seconds()) for _ in range(rounds)]
    return compared("bare_step_seconds", "batch_seconds", pairs)


def saving(settings: TrainSettings, rounds: int, folder: Path) -> Facts:
    """Compare whole runs, with a checkpoint after each ten updates and with none."""
    bare, steps = Bare(settings), settings.steps - WARM_UP_STEPS
    bare.seconds(WARM_UP_STEPS)
    pairs = []
    for _ in range(rounds):
        step = bare.seconds(steps)
        with_none = wall_seconds(fresh(settings, folder))
        with_some = wall_seconds(fresh(settings, folder, checkpoint_every=10))
        saves = (settings.steps - 1) // 10
        pairs.append((step, (with_some - with_none) / saves))
    return compared("bare_step_seconds", "checkpoint_seconds", pairs)


def wall_seconds(settings: TrainSettings) -> float:
    """Return the seconds from the first update to the last look, pauses included."""
    looks: list[float] = []
    append = Journal.append

    def note(journal: Journal, records: Any) -> None:
        looks.append(time.perf_counter())
        append(journal, records)

    with patched(Journal, "append", note):
        train(settings)
    return looks[-2] - looks[0]  # the last line tells that it has finished


def start(settings: TrainSettings, rounds: int, folder: Path) -> Facts:
    """Start in a process that has imported everything, and look for the first line."""
    program = (
        "import sys, time, torch._dynamo\n"
        "import scratch.trainer.training.train, scratch.trainer.cli\n"
        "from scratch.trainer.runs.journal import Journal\n"
        "append, begin = Journal.append, time.perf_counter()\n"
        "def note(*a):\n"
        "    print(time.perf_counter() - begin, flush=True); append(*a)\n"
        "Journal.append = note\n"
        "scratch.trainer.cli.main(sys.argv[1:])\n"
    )
    found = []
    for _ in range(rounds):
        out = fresh(settings, folder).out
        line = f"train --data {settings.data} --out {out} --steps 1 --precision auto"
        line += " --batch-size 16 --optimizer.kind muon"
        answer = subprocess.run(
            [sys.executable, "-c", program, *line.split()],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found.append(float(answer.stdout.split()[0]))
    return {"seconds": round(statistics.median(found), 3), "bar": 5.0}


def help_(settings: TrainSettings, rounds: int, folder: Path) -> Facts:  # noqa: ARG001
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        command = [Path(sys.executable).with_name("trainer"), "--help"]
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - begin)
    return {"seconds": round(statistics.median(found), 3), "bar": 0.4}


JOBS: dict[str, Callable[[TrainSettings, int, Path], Facts]] = {
    "overhead": overhead,
    "loader": loader,
    "saving": saving,
    "start": start,
    "help": help_,
}

_numbers = count()


def fresh(settings: TrainSettings, folder: Path, **changes: Any) -> TrainSettings:
    return settings.model_copy(update={"out": folder / f"run-{next(_numbers)}", **changes})


def compared(below: str, above: str, pairs: list[tuple[float, float]]) -> Facts:
    ratios = [second / first for first, second in pairs]
    return {
        below: round(statistics.median(first for first, _ in pairs), 5),
        above: round(statistics.median(second for _, second in pairs), 5),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
    }


@contextmanager
def patched(owner: type, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def about(options: argparse.Namespace) -> Facts:
    described = ["git", "describe", "--always", "--dirty"]
    return {
        "rounds": options.rounds,
        "steps": options.steps,
        "threads": options.threads,
        "commit": subprocess.run(described, capture_output=True, text=True).stdout.strip(),
        "torch": version("torch"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    let_waiting_threads_sleep()
    main()
