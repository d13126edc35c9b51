"""Preparing by the processes of others: the same bytes, and whoever is lost is made up for."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from scratch.trainer.cli import main
from scratch.trainer.commands import PrepareSettings
from scratch.trainer.data import cluster as module
from scratch.trainer.data.cluster import workers_of
from scratch.trainer.data.prepare import prepare

PATIENCE_SECONDS = 60
SHARDS = ["--vocab-size", "300", "--shard-bytes", "500"]

slow = pytest.mark.slow


@pytest.fixture
def fresh(corpus: Path, tmp_path: Path) -> PrepareSettings:
    return PrepareSettings(
        files=(corpus,), out=tmp_path / "fresh", vocab_size=300, validation_fraction=0.1
    )


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def wait_for(find: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := find()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
    return found


# --- any executor


def test_an_executor_of_the_caller_makes_the_same_data(
    fresh: PrepareSettings, corpus: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[object] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Any:
            counted.append(arguments[0])
            return super().submit(*arguments, **options)

    monkeypatch.chdir(corpus.parent)
    with Counting(2) as executor:
        prepare(fresh.model_copy(update={"files": (Path(corpus.name),)}), executor=executor)
        assert executor.submit(abs, -1).result() == 1, "it is the caller's to end"
    assert contents(fresh.out) == contents(data)
    assert len(counted) == 4  # one part to learn from, a shard of each split, and ours


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"workers": 2, "cluster": "mpi"}, "workers=2 and cluster=mpi"),
        ({"workers": 2, "executor": True}, "workers=2 and executor=ThreadPoolExecutor"),
        ({"cluster": "mpi", "executor": True}, "cluster=mpi and executor=ThreadPoolExecutor"),
    ],
    ids=["workers and cluster", "workers and executor", "cluster and executor"],
)
def test_it_is_told_once_who_does_the_work(
    fresh: PrepareSettings, changes: dict[str, Any], given: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        executor = pool if changes.pop("executor", False) else None
        with pytest.raises(ValueError, match=f"only one of workers, .* must say .*, got {given}$"):
            prepare(fresh.model_copy(update=changes), executor=executor)
    assert not fresh.out.exists()


@pytest.mark.parametrize("cluster", ["node1", "node1:8786", "cluster.json", "MPI"])
def test_what_is_no_cluster_is_refused(fresh: PrepareSettings, cluster: str) -> None:
    with pytest.raises(ValueError, match=f"cluster must be mpi, the address .*, got {cluster}$"):
        prepare(fresh.model_copy(update={"cluster": cluster}))
    assert not fresh.out.exists()


@pytest.mark.parametrize(
    ("cluster", "package", "extra"),
    [("tcp://node1:8786", "dask.distributed", "dask"), ("mpi", "mpi4py.MPI", "mpi")],
)
@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_what_is_not_installed_is_told_with_its_extra(
    cluster: str,
    package: str,
    extra: str,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    corpus: Path,
    tmp_path: Path,
) -> None:
    if (cluster, error) == ("tcp://node1:8786", RuntimeError):
        pytest.skip("only a missing library of MPI is told so")

    def import_module(name: str) -> None:
        assert name == package
        raise error(name)

    monkeypatch.setattr(module, "import_module", import_module)
    arguments = ["prepare", str(corpus), "--out", str(tmp_path / "out"), "--cluster", cluster]
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"trainer: cluster {cluster} takes an extra: pip install ")
    assert f'"scratch-trainer[{extra}]"' in told


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_does_without(
    fresh: PrepareSettings,
    data: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def acquire(self: FileLock, **_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    prepare(fresh)
    assert contents(fresh.out) == contents(data)
    assert "fresh is on a file system without locks; let no other" in capsys.readouterr().err


# --- Dask


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[Any]:
    """Return a cluster of two processes, which work in another directory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which are Dask's own
        from dask import distributed

        cluster = distributed.LocalCluster(
            processes=True,
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs="CRITICAL",
        )
    with cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            client.run(os.chdir, "/")
        yield cluster


@pytest.fixture(scope="module")
def long_corpus(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus that takes a hundred shards and more."""
    path = tmp_path_factory.mktemp("long") / "long.txt"
    path.write_bytes(b"<|endoftext|>".join([corpus.read_bytes()] * 8))
    return path


@pytest.fixture(scope="module")
def undisturbed(long_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    assert main(["prepare", str(long_corpus), "--out", str(out), *SHARDS]) == 0
    assert len(contents(out)) > 100
    return contents(out)


@slow
def test_a_cluster_makes_the_same_data(
    dask_cluster: Any,
    long_corpus: Path,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(long_corpus, tmp_path)
    (tmp_path / "cluster.json").write_text(json.dumps(dask_cluster.scheduler.identity()))
    for name in (dask_cluster.scheduler_address, "cluster.json"):
        shutil.rmtree("out", ignore_errors=True)
        arguments = ["prepare", long_corpus.name, "--out", "out", "--cluster", name, *SHARDS]
        assert main(arguments) == 0
        assert f"workers: 2, by {name}\n" in capsys.readouterr().err
        assert contents(tmp_path / "out") == undisturbed


@slow
def test_a_machine_with_another_version_is_refused(
    dask_cluster: Any, fresh: PrepareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "version", lambda _: f"0.{os.getpid()}")
    message = r"cluster must have scratch-bpe .* on all machines, .*, got 0\.\d+ on tcp://"
    with pytest.raises(ValueError, match=message):
        prepare(fresh.model_copy(update={"cluster": dask_cluster.scheduler_address}))
    assert not fresh.out.exists()


@slow
@pytest.mark.parametrize("lost", ["worker", "coordinator"])
def test_who_is_killed_meanwhile_changes_no_byte(
    dask_cluster: Any, long_corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes], lost: str
) -> None:
    from dask.distributed import Client

    out, address = tmp_path / "out", dask_cluster.scheduler_address
    arguments = ["prepare", str(long_corpus), "--out", str(out), "--cluster", address, *SHARDS]
    with Client(address, set_as_default=False) as client:
        pids = wait_for(lambda: (found := client.run(os.getpid)) and len(found) == 2 and found)
    command = [sys.executable, "-m", "scratch.trainer", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        shards = out / "unfinished" / "train"
        wait_for(lambda: len(list(shards.glob("shard-*.npy"))) > 5 or process.poll() is not None)
        assert process.poll() is None, "it was quicker"
        os.kill(process.pid if lost == "coordinator" else min(pids.values()), signal.SIGKILL)
        _, told = process.communicate(timeout=PATIENCE_SECONDS)
    if lost == "coordinator":
        assert process.returncode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
        assert main(arguments) == 0
    else:
        assert process.returncode == 0, told
    assert contents(out) == undisturbed


@slow
def test_a_scheduler_that_does_not_answer_is_told(
    fresh: PrepareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CONNECTING_SECONDS", 1)
    with pytest.raises(ConnectionError, match="a Dask scheduler that answers, got tcp://127"):
        prepare(fresh.model_copy(update={"cluster": "tcp://127.0.0.1:9"}))
    assert not fresh.out.exists()


@slow
def test_work_that_kills_every_worker_is_told(dask_cluster: Any) -> None:
    with (
        pytest.raises(ChildProcessError, match=r"one piece of work was tried were lost, the last"),
        workers_of(dask_cluster.scheduler_address) as executor,
    ):
        executor.submit(os._exit, 1).result(PATIENCE_SECONDS)


# --- MPI


@slow
@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="needs an MPI")
def test_mpi_makes_the_same_data(
    long_corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    pytest.importorskip("mpi4py")
    arguments = ["prepare", str(long_corpus), "--out", str(tmp_path / "out"), *SHARDS]
    command = [sys.executable, "-m", "scratch.trainer", *arguments, "--cluster", "mpi"]
    environment = os.environ | dict.fromkeys(
        (
            "OMPI_ALLOW_RUN_AS_ROOT",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
            "OMPI_MCA_rmaps_base_oversubscribe",
        ),
        "1",
    )
    alone = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert alone.returncode == 1
    assert "cluster mpi must have at least 2 processes" in alone.stderr
    subprocess.run(["mpiexec", "-n", "3", *command], check=True, env=environment, timeout=120)
    assert contents(tmp_path / "out") == undisturbed
