"""Training and encoding with executors of all kinds: whoever does the work, it is the same."""

import errno
import gzip
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from scratch.bpe import (
    CL100K,
    ShardManifest,
    Tokenizer,
    Vocabulary,
    _train,
    train_bpe,
    train_bpe_from_iterator,
)

EOT = "<|endoftext|>"
PATIENCE_SECONDS = 60
KINDS = ["threads", "spawn", "fork", "dask"]


@contextmanager
def dask_executor() -> Iterator[Executor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which are Dask's own
        from dask import distributed  # which takes a while to import

        cluster = distributed.LocalCluster(
            processes=True,
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs="CRITICAL",
        )
    with cluster, distributed.Client(cluster) as client, client.get_executor() as executor:
        yield executor


@pytest.fixture(scope="module", params=KINDS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    kind = request.param
    if kind not in ("threads", "dask", *multiprocessing.get_all_start_methods()):
        pytest.skip(f"needs {kind}")
    if kind == "dask":
        made = dask_executor()
    elif kind == "threads":
        made = ThreadPoolExecutor(2)
    else:
        made = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(kind))
    with made as executor:
        yield executor


@pytest.fixture
def files(tmp_path: Path, corpus: str) -> list[Path]:
    middle = len(corpus) // 2
    (tmp_path / "one.txt").write_bytes(corpus[:middle].encode())
    (tmp_path / "empty.txt").touch()
    (tmp_path / "two.txt").write_bytes(corpus[middle:].encode())
    return [tmp_path / name for name in ("one.txt", "empty.txt", "two.txt")]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    set_part_bytes(monkeypatch, 2000)


def set_part_bytes(monkeypatch: pytest.MonkeyPatch, part_bytes: int) -> None:
    monkeypatch.setattr(_train, "_LEAST_PART_BYTES", part_bytes)
    monkeypatch.setattr(_train, "_MOST_PART_BYTES", part_bytes)


@pytest.fixture
def nobody_is_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) == before


# --- Any parts, any number of workers


@pytest.mark.usefixtures("nobody_is_left")
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("part_bytes", [1, 500, 2**26])
def test_workers_and_parts_change_nothing(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, workers: int, part_bytes: int
) -> None:
    files[0].write_bytes(files[0].read_bytes().decode()[:5000].encode())
    options: dict[str, Any] = {"vocab_size": 400, "special_tokens": [EOT, "\n\n", "e s"]}
    expected = train_bpe_from_iterator(
        [path.read_bytes().decode() for path in files[:2]], **options
    )
    set_part_bytes(monkeypatch, part_bytes)
    assert train_bpe(files[:2], **options, workers=workers) == expected


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        zstandard.compress,
        lambda data: gzip.compress(data[:99]) + gzip.compress(data[99:]),
    ],
    ids=["gzip", "zstd", "gzip in two"],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_compressed_copies_train_the_same(
    files: list[Path], pack: Callable[[bytes], bytes], workers: int
) -> None:
    options: dict[str, Any] = {"vocab_size": 500, "special_tokens": [EOT], "pattern": CL100K}
    expected = train_bpe(files, **options)
    for path in files:
        path.write_bytes(pack(path.read_bytes()))
    assert train_bpe(files, **options, workers=workers) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_that_are_not_utf8_may_be_replaced(tmp_path: Path, workers: int) -> None:
    data = b"some words \xff\xfe and \xe2\x82 more " * 500
    (tmp_path / "file").write_bytes(data)
    expected = train_bpe_from_iterator([data.decode(errors="replace")], vocab_size=300)
    found = train_bpe(tmp_path / "file", vocab_size=300, errors="replace", workers=workers)
    assert found == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_rare_pairs_are_not_merged(files: list[Path], workers: int) -> None:
    every = train_bpe(files, vocab_size=2000, special_tokens=[EOT]).merges
    options: dict[str, Any] = {"vocab_size": 2000, "special_tokens": [EOT], "workers": workers}
    sizes = []
    for least in (2, 30, 10**6):
        merges = train_bpe(files, **options, min_frequency=least).merges
        assert merges == every[: len(merges)]
        sizes.append(len(merges))
    assert len(every) > sizes[0] > sizes[1] > sizes[2] == 0


def check_progress(files: list[Path], **options: Any) -> None:
    calls: list[tuple[str, int, int]] = []
    vocabulary = train_bpe(
        files, vocab_size=400, progress=lambda *call: calls.append(call), **options
    )
    assert len(vocabulary.merges) == 144
    assert sorted(stage for stage, _, _ in calls) == [stage for stage, _, _ in calls]
    total_bytes = sum(path.stat().st_size for path in files)
    for stage, total in (("count", total_bytes), ("merge", 144)):
        done = [done for name, done, all_ in calls if (name, all_) == (stage, total)]
        assert len(done) == sum(name == stage for name, _, _ in calls) > 1
        assert done == sorted(done)
        assert done[-1] == total


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_up_to_all_bytes_and_all_merges(files: list[Path], workers: int) -> None:
    check_progress(files, workers=workers)
    for path in files:
        path.write_bytes(gzip.compress(path.read_bytes()))
    check_progress(files, workers=workers)


def test_workers_beside_an_executor_are_refused(files: list[Path]) -> None:
    with ThreadPoolExecutor(1) as pool:
        for workers in (1, 2):
            with pytest.raises(ValueError, match=f"workers must be None .* workers={workers}"):
                train_bpe(files, vocab_size=300, workers=workers, executor=pool)


# --- Nobody is left behind


def fail(error: type[BaseException], stage: str) -> Callable[[str, int, int], None]:
    def progress(name: str, done: int, total: int) -> None:
        if name == stage:
            raise error

    return progress


@pytest.mark.usefixtures("nobody_is_left")
@pytest.mark.parametrize("stage", ["count", "merge"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_of_the_caller_ends_the_workers(
    files: list[Path], error: type[BaseException], stage: str
) -> None:
    with pytest.raises(error):
        train_bpe(files, vocab_size=300, workers=2, progress=fail(error, stage))


def test_an_interrupt_from_the_keyboard_ends_everybody(files: list[Path]) -> None:
    script = """if __name__ == "__main__":
        import sys
        from scratch.bpe import train_bpe
        def wait(*call):
            print("counting", flush=True)
            while True:
                pass
        train_bpe(sys.argv[1:], vocab_size=300, workers=2, progress=wait)
    """
    command = [sys.executable, "-c", script, *files]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counting\n"
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)  # until the last worker has ended
    assert process.returncode == -signal.SIGINT
    assert error.count(b"Traceback") == 1
    assert error.endswith(b"KeyboardInterrupt\n")


@pytest.mark.usefixtures("nobody_is_left")
def test_an_error_of_a_worker_ends_all(files: list[Path]) -> None:
    files[1].write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="must be UTF-8, got byte 0xe9 at byte offset 3"):
        train_bpe(files, vocab_size=300, workers=2)


@pytest.mark.usefixtures("nobody_is_left")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_vanishes_while_others_are_counted_is_an_error(
    files: list[Path], workers: int
) -> None:
    with pytest.raises(FileNotFoundError, match=r"two\.txt"):
        train_bpe(
            files,
            vocab_size=300,
            workers=workers,
            progress=lambda *_: files[2].unlink(missing_ok=True),
        )


# --- Any executor; last, because nobody should fork beside the threads of Dask


@pytest.mark.parametrize("pattern", ["gpt2", "o200k"])
def test_any_executor_learns_the_same(files: list[Path], executor: Executor, pattern: str) -> None:
    options: dict[str, Any] = {"vocab_size": 500, "special_tokens": [EOT], "pattern": pattern}
    texts = [path.read_bytes().decode() for path in files]
    expected = train_bpe_from_iterator(texts, **options)
    assert train_bpe(files, **options, executor=executor) == expected
    assert train_bpe(files, **options, executor=executor) == expected  # it can be used again


@pytest.mark.parametrize("shard_bytes", [3000, 2**26])
def test_any_executor_encodes_the_same(
    vocabulary: Vocabulary, files: list[Path], tmp_path: Path, executor: Executor, shard_bytes: int
) -> None:
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    options: dict[str, Any] = {"shard_bytes": shard_bytes, "end_of_file": EOT}
    manifest = tokenizer.encode_files(files, tmp_path / "out", **options, executor=executor)
    expected: list[int] = []
    for path in files:
        expected += tokenizer.encode(path.read_bytes().decode())
        expected.append(tokenizer.special_tokens[EOT])
    assert np.concatenate(list(manifest.arrays())).tolist() == expected
    assert ShardManifest.load(tmp_path / "out") == manifest
    tokenizer.encode_files(files, tmp_path / "alone", **options, workers=1)
    alone, out = (
        {p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("alone", "out")
    )
    assert alone == out


def test_progress_is_told_by_any_executor(files: list[Path], executor: Executor) -> None:
    check_progress(files, executor=executor)


def test_an_error_in_any_executor_reaches_the_caller(
    vocabulary: Vocabulary, files: list[Path], tmp_path: Path, executor: Executor
) -> None:
    (tmp_path / "latin").write_bytes(b"some words " * 500 + b"caf\xe9")
    paths = [*files, tmp_path / "latin"]
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    message = "latin must be UTF-8, got byte 0xe9 at byte offset 5503"
    with pytest.raises(ValueError, match=message):
        train_bpe(paths, vocab_size=300, executor=executor)
    with pytest.raises(ValueError, match=message):
        tokenizer.encode_files(paths, tmp_path / "out", shard_bytes=2000, executor=executor)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").glob("*.tmp"))
    train_bpe(files, vocab_size=300, executor=executor)  # and it is none the worse


@pytest.mark.parametrize("executor", ["dask"], indirect=True)
def test_a_lost_worker_of_a_cluster_is_made_up_for_by_the_others(
    vocabulary: Vocabulary, files: list[Path], tmp_path: Path, executor: Executor
) -> None:
    """A worker is killed in the middle of the last shard: it waits for the text from a pipe."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs pipes with names")
    from dask.distributed import default_client

    tokenizer, client = Tokenizer.from_vocabulary(vocabulary), default_client()
    files.append(tmp_path / "pipe")
    os.mkfifo(files[-1])
    out, options = tmp_path / "out", {"shard_bytes": 3000, "end_of_file": EOT}
    with ThreadPoolExecutor(1) as thread:
        encoding = thread.submit(tokenizer.encode_files, files, out, **options, executor=executor)
        pipe = wait_for(lambda: open_pipe(files[-1]))  # which somebody reads
        (busy,) = wait_for(lambda: busy_workers(client, 1))
        pids: dict[str, int] = client.run(os.getpid)
        assert list(out.glob(".shard-*.npy.*.tmp"))
        (tmp_path / "text").write_bytes(files[2].read_bytes())
        (tmp_path / "text").replace(files[-1])
        os.kill(pids[busy], signal.SIGKILL)
        manifest = encoding.result(PATIENCE_SECONDS)
        os.close(pipe)
    undisturbed = tokenizer.encode_files(files, tmp_path / "undisturbed", **options)
    made, expected = (np.concatenate(list(each.arrays())) for each in (manifest, undisturbed))
    np.testing.assert_array_equal(made, expected)
    assert ShardManifest.load(out) == manifest
    assert not list(out.glob(".*"))


def wait_for(find: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := find()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
    return found


def open_pipe(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:  # which is that nobody reads from it
            raise
        return None


def busy_workers(client: Any, count: int) -> list[str]:
    busy = [address for address, tasks in client.processing().items() if tasks]
    return busy if len(busy) == count else []
