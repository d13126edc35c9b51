"""Contract: what is killed, or meets a disk that takes nothing, loses nothing.

Fifty trials, each with its own seed: `prepare` and then `train` are killed at random moments and
begun again until they are done. In the end every byte of data and weights is that of a day on which
nothing happened.
"""

import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from scratch.trainer.cli import main
from scratch.trainer.data.prepare import PreparedData
from scratch.trainer.runs.run import RunDirectory

StartTrainer = Callable[..., BaseProcess]
PATIENCE_SECONDS = 60
TRIALS = [pytest.param(seed, marks=[pytest.mark.slow] if seed >= 3 else []) for seed in range(50)]


def prepare_command(corpus: Path, out: Path) -> list[str]:
    line = f"prepare {corpus} --out {out} --vocab-size 300 --shard-bytes 400 --workers 1"
    return line.split()


def train_command(data: Path, out: Path) -> list[str]:
    line = f"train --data {data} --out {out} --steps 40 --batch-size 4 --checkpoint-every 3"
    line += " --evaluate-every 10 --log-every 4 --model.d-model 16 --model.num-layers 1"
    line += " --model.num-heads 2 --model.context-length 16 --resume --optimizer.kind muon"
    return line.split()


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(prepare_command(corpus, folder / "data")) == 0
    assert main(train_command(folder / "data", folder / "run")) == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "trial"
    shutil.rmtree(tmp_path / "trial", ignore_errors=True)


def files(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def kill_again_and_again(
    start: StartTrainer, command: list[str], out: Path, *, chance: random.Random
) -> None:
    """Start a command and kill it, a few times; if it is done before that, begin anew."""
    longest_seconds = 1.0
    for _ in range(chance.randint(2, 4)):
        process = start(*command)
        process.join(chance.uniform(0.0, longest_seconds))
        process.kill()
        process.join(PATIENCE_SECONDS)
        if process.exitcode == 0:  # it was quicker
            shutil.rmtree(out)
            longest_seconds /= 2
        else:
            assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("seed", TRIALS)
def test_whenever_it_is_killed_the_result_is_the_same(
    seed: int, start_trainer: StartTrainer, corpus: Path, folder: Path, undisturbed: Path
) -> None:
    chance = random.Random(seed)
    prepare, train = (
        prepare_command(corpus, folder / "data"),
        train_command(folder / "data", folder / "run"),
    )
    kill_again_and_again(start_trainer, prepare, folder / "data", chance=chance)
    assert main(prepare) == 0
    assert files(folder / "data") == files(undisturbed / "data")
    kill_again_and_again(start_trainer, train, folder / "run", chance=chance)
    assert main(train) == 0
    for name in ("model.safetensors", "tokenizer.json", "data.json"):
        found, expected = folder / "run" / name, undisturbed / "run" / name
        assert found.read_bytes() == expected.read_bytes(), name
    assert losses(folder / "run") == losses(undisturbed / "run")
    left = [path.name for path in folder.rglob(".*") if path.name != ".lock"]
    assert left == []


def losses(run: Path) -> list[tuple[int, float | None, float | None]]:
    return [
        (record["step"], record.get("loss"), record.get("val_loss"))
        for record in RunDirectory(run).journal.read()
    ]


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """Return a directory that takes nothing, also from root, where one may mount one."""
    path = tmp_path / "read-only"
    path.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(path)]
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this needs the right to mount: {error}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_directory_that_cannot_be_written_to_is_told_in_a_line(
    read_only: Path, corpus: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        prepare_command(corpus, read_only / "data"),
        train_command(data, read_only / "run"),
    ):
        assert main(command) == 1
        told = capsys.readouterr().err.splitlines()
        assert told[-1].startswith("trainer: ")
        assert "Read-only file system" in told[-1]
        assert str(read_only) in told[-1]


def test_data_that_was_changed_after_the_training_began_is_noticed(
    undisturbed: Path, folder: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "data")
    line = prepare_command(corpus, folder / "data")
    assert main([*line, "--validation-fraction", "0.2"]) == 0
    capsys.readouterr()
    assert main(train_command(folder / "data", folder / "run")) == 1
    assert "the data is not the same" in capsys.readouterr().err
    assert PreparedData.open(folder / "data").validation is not None
