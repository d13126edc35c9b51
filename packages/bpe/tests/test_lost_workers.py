"""Workers that are elsewhere, are lost, or come back late: the same bytes, or an error that tells.

Work that outlives its call is played by an executor that keeps what it is given to do.
"""

import errno
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from scratch.bpe import Tokenizer, Vocabulary, _encode_files, read_blocks, train_bpe

EOT = "<|endoftext|>"
PATIENCE_SECONDS = 60

Work = Callable[[], Any]
HOST = platform.node()


@pytest.fixture
def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer.from_vocabulary(vocabulary)


@pytest.fixture
def other(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer(vocabulary.tokens, vocabulary.merges[:-50], vocabulary.special_tokens)


@pytest.fixture
def text(tmp_path: Path, corpus: str) -> Path:
    path = tmp_path / "data" / "text"
    path.parent.mkdir()
    path.write_bytes(corpus[:6000].encode())
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def encode(tokenizer: Tokenizer, text: Path, out: Path, **options: Any) -> dict[str, bytes]:
    tokenizer.encode_files(text, out, shard_bytes=options.pop("shard_bytes", 1000), **options)
    return contents(out)


@dataclass
class Here(Executor):
    """Does the work at once, in surroundings that may be others than those of the caller."""

    surrounded: Callable[[Work], Any] = lambda work: work()

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(self.surrounded(lambda: function(*arguments, **options)))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class Orphans(Executor):
    """Keeps the work, whose caller is dead when all of it is there."""

    works: list[Work] = field(default_factory=list)

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        self.works.append(lambda: function(*arguments, **options))
        return Future()

    @classmethod
    def of(cls, tokenizer: Tokenizer, text: Path, out: Path) -> list[Work]:
        """Return the work of a call that is killed before any of it is done."""
        orphans = cls()

        def die(executor: Any, function: Any, tasks: Any, **_: Any) -> Iterator[Any]:
            for task in tasks:
                executor.submit(function, task)
            raise KeyboardInterrupt
            yield

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_encode_files, "run_in_order", die)
            with pytest.raises(KeyboardInterrupt):
                tokenizer.encode_files(text, out, shard_bytes=1000, executor=orphans)
        assert len(orphans.works) > 3
        return orphans.works


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, when the next worker is in the middle of its shard."""

    def interrupted(*arguments: Any, **options: Any) -> Iterator[bytes]:
        monkeypatch.setattr(_encode_files, "read_blocks", read_blocks)
        blocks = list(read_blocks(*arguments, **options))
        happens()
        yield from blocks

    monkeypatch.setattr(_encode_files, "read_blocks", interrupted)


# --- Workers that outlive the call they worked for


def test_a_worker_that_comes_late_changes_nothing(
    tokenizer: Tokenizer, text: Path, out: Path
) -> None:
    works = Orphans.of(tokenizer, text, out)
    works[1]()  # between the calls
    made = (out / "shard-00001.npy").stat().st_ino
    expected = encode(tokenizer, text, out)
    assert (out / "shard-00001.npy").stat().st_ino == made, "it was made again"
    before = {path: path.stat() for path in out.iterdir()}
    for work in works:
        work()
    assert {path: path.stat() for path in out.iterdir()} == before
    assert expected == encode(tokenizer, text, out.with_name("undisturbed"))


@pytest.mark.parametrize("change", ["tokenizer", "shards"])
def test_a_worker_of_an_earlier_plan_writes_nothing(
    tokenizer: Tokenizer, other: Tokenizer, text: Path, out: Path, change: str
) -> None:
    works = Orphans.of(tokenizer, text, out)
    for path in out.iterdir():
        path.unlink()
    later = Orphans.of(other, text, out) if change == "tokenizer" else []
    if change == "shards":
        encode(tokenizer, text, out, shard_bytes=500)
        (out / "shard-00000.npy").unlink()
    begun = contents(out)
    with pytest.raises(ValueError, match=r"\.json must not change while files are encoded"):
        works[0]()
    assert contents(out) == begun
    for work in later:
        work()
    chosen, shard_bytes = (other, 1000) if later else (tokenizer, 500)
    expected = encode(chosen, text, out.with_name("undisturbed"), shard_bytes=shard_bytes)
    assert encode(chosen, text, out, shard_bytes=shard_bytes) == expected


def test_a_worker_that_was_writing_when_the_same_call_came_again_does_no_harm(
    tokenizer: Tokenizer, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Orphans.of(tokenizer, text, out)
    meanwhile(monkeypatch, lambda: encode(tokenizer, text, out))
    works[2]()
    assert contents(out) == encode(tokenizer, text, out.with_name("undisturbed"))


def test_a_worker_that_was_writing_when_another_plan_came_writes_nothing(
    tokenizer: Tokenizer, other: Tokenizer, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Orphans.of(tokenizer, text, out)

    def begin_another() -> None:
        for path in out.iterdir():
            if not path.name.startswith("."):
                path.unlink()
        Orphans.of(other, text, out)

    meanwhile(monkeypatch, begin_another)
    with pytest.raises(ValueError, match="must be written by one call at a time, got another"):
        works[2]()
    assert sorted(contents(out)) == ["plan.json", "tokenizer.json"]
    expected = encode(other, text, out.with_name("undisturbed"))
    assert encode(other, text, out) == expected


def test_two_workers_may_write_one_shard_at_a_time(
    tokenizer: Tokenizer, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Orphans.of(tokenizer, text, out)
    both_are_writing = Barrier(2)

    def read_together(*arguments: Any, **options: Any) -> Iterator[bytes]:
        both_are_writing.wait(PATIENCE_SECONDS)
        assert len(list(out.glob(".shard-00002.npy.*.tmp"))) == 2
        both_are_writing.wait(PATIENCE_SECONDS)
        yield from read_blocks(*arguments, **options)

    with ThreadPoolExecutor(2) as pool, monkeypatch.context() as patch:
        patch.setattr(_encode_files, "read_blocks", read_together)
        for future in [pool.submit(works[2]) for _ in range(2)]:
            future.result()
    assert sorted(contents(out)) == ["plan.json", "shard-00002.npy", "tokenizer.json"]
    expected = encode(tokenizer, text, out.with_name("undisturbed"))
    assert encode(tokenizer, text, out) == expected


# --- Workers that are elsewhere


def test_workers_may_be_in_another_directory(
    tokenizer: Tokenizer, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"vocab_size": 300, "special_tokens": [EOT]}
    expected = encode(tokenizer, text, tmp_path / "undisturbed")
    learnt = train_bpe(text, **options)
    (tmp_path / "far" / "away").mkdir(parents=True)
    monkeypatch.chdir(text.parent)

    def elsewhere(work: Work) -> Any:
        with chdir(tmp_path / "far" / "away"):
            return work()

    assert train_bpe("text", **options, executor=Here(elsewhere)) == learnt
    made = encode(tokenizer, Path("text"), Path("../out"), executor=Here(elsewhere))
    assert {name: made[name] for name in made if name != "plan.json"} == {
        name: expected[name] for name in expected if name != "plan.json"
    }
    assert list((tmp_path / "far" / "away").iterdir()) == []
    for name in ("manifest.json", "shard-00001.npy"):
        Path("../out", name).unlink()
    assert encode(tokenizer, Path("text"), Path("../out")) == made  # as it is named, it goes on


@pytest.mark.parametrize("hidden", ["data", "out"])
def test_a_worker_that_does_not_see_the_files_is_told_with_its_machine(
    tokenizer: Tokenizer, text: Path, out: Path, hidden: str
) -> None:
    folder = out.with_name(hidden)

    def without(work: Work) -> Any:
        folder.rename(out.with_name("unmounted"))
        try:
            return work()
        finally:
            out.with_name("unmounted").rename(folder)

    message = f"for the worker on {HOST}; workers must see all files by the same paths"
    with pytest.raises(FileNotFoundError, match=message) as error:
        encode(tokenizer, text, out, executor=Here(without))
    assert Path(error.value.filename).parent == folder
    assert not (out / "manifest.json").exists()
    if hidden == "data":
        with pytest.raises(FileNotFoundError, match=message) as error:
            train_bpe(text, vocab_size=300, executor=Here(without))
        assert error.value.filename == str(text)
    expected = encode(tokenizer, text, out.with_name("undisturbed"))
    assert encode(tokenizer, text, out, executor=Here()) == expected


def test_shards_that_went_elsewhere_are_told(tokenizer: Tokenizer, text: Path, out: Path) -> None:
    message = "a worker wrote this shard, but it is not seen here; workers must see all files"
    with pytest.raises(FileNotFoundError, match=message) as error:
        encode(tokenizer, text, out, executor=Here(lambda _: None))
    assert error.value.filename == str(out / "shard-00000.npy")
    assert not (out / "manifest.json").exists()


def test_another_error_of_a_file_tells_the_machine_too(
    tokenizer: Tokenizer, text: Path, out: Path
) -> None:
    def forbidden(work: Work) -> Any:
        def refuse(*_: Any, **__: Any) -> Iterator[bytes]:
            raise PermissionError(errno.EACCES, "Permission denied", str(text))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_encode_files, "read_blocks", refuse)
            return work()

    with pytest.raises(PermissionError, match=f"Permission denied, for the worker on {HOST}"):
        encode(tokenizer, text, out, executor=Here(forbidden))
