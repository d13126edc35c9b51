"""A small corpus, its data and one finished run that all tests read and none may change."""

import os
import random
import runpy
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from scratch.trainer.commands import PrepareSettings
from scratch.trainer.config import ModelSettings, OptimizerSettings, TrainSettings
from scratch.trainer.data.prepare import prepare
from scratch.trainer.training.train import train

MakeSettings = Callable[..., TrainSettings]
StartTrainer = Callable[..., BaseProcess]

WORDS = ["the", "cat", "dog", "sat", "ran", "by", "a", "small", "house", "naïve", "漢字", "🙃"]
TINY = ModelSettings(context_length=16, d_model=16, num_layers=1, num_heads=2)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Use one thread: runs are equal bit for bit only with equal numbers of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """Return texts of a few lines each."""
    chance = random.Random(1)
    return [
        "".join(" ".join(chance.choices(WORDS, k=9)) + ".\n" for _ in range(chance.randint(3, 9)))
        for _ in range(32)
    ]


@pytest.fixture(scope="session")
def corpus(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "tales.txt"
    path.write_bytes("<|endoftext|>".join(documents).encode())
    return path


@pytest.fixture(scope="session")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "tales"
    prepare(
        PrepareSettings(files=(corpus,), out=directory, vocab_size=300, validation_fraction=0.1)
    )
    return directory


@pytest.fixture(scope="session")
def make_settings(data: Path) -> MakeSettings:
    """Return a maker of settings: 12 steps of a tiny model, a checkpoint after each 4."""
    defaults = {
        "data": data,
        "steps": 12,
        "batch_size": 4,
        "checkpoint_every": 4,
        "keep_checkpoints": 9,
        "evaluate_every": 6,
        "log_every": 5,
        "model": TINY,
        "optimizer": OptimizerSettings(lr=0.01),
    }
    return lambda out, **changes: TrainSettings(**{**defaults, "out": out, **changes})


@pytest.fixture(scope="session")
def unbroken(make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that nothing disturbed."""
    return train(make_settings(tmp_path_factory.mktemp("unbroken") / "run")).path


@pytest.fixture
def finished(unbroken: Path, tmp_path: Path) -> Path:
    """Return a copy of that run, to do with as one likes."""
    return shutil.copytree(unbroken, tmp_path / "run")


@pytest.fixture
def stopped(finished: Path) -> Path:
    """Return that run as it was a moment after its checkpoint at step 8."""
    (finished / "model.safetensors").unlink()
    shutil.rmtree(finished / "checkpoints" / "step-00000012")
    return finished


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a finder of ports at which processes can meet."""

    def find() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def start_trainer() -> Iterator[StartTrainer]:
    """Return a starter of the command `trainer` in processes of their own.

    To import torch takes seconds, so they are forked from a server that has done it, and has also
    imported what torch's optimizers do when the first of them is made.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(
        [
            "pytest",
            "scratch.trainer.training.train",
            "torch._dynamo",
            "torch.distributed.fsdp",
            "torch.distributed.checkpoint.state_dict",
        ]
    )
    started: list[BaseProcess] = []

    def start(*arguments: object) -> BaseProcess:
        process = context.Process(
            target=runpy.run_module, args=("scratch.trainer",), kwargs={"run_name": "__main__"}
        )
        with pytest.MonkeyPatch.context() as patch:  # what the other process begins with
            patch.setitem(os.environ, "OMP_NUM_THREADS", "1")
            patch.setattr(sys, "argv", ["trainer", *map(str, arguments)])
            process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
