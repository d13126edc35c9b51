"""Preparing: the same bytes in the end, whatever the files come in and whatever comes between."""

import gzip
import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from filelock import FileLock

from scratch.bpe import Tokenizer
from scratch.trainer.cli import main
from scratch.trainer.commands import PrepareSettings
from scratch.trainer.data import prepare as module
from scratch.trainer.data.prepare import PreparedData, prepare, print_prepared

EOT = "<|endoftext|>"
PATIENCE_SECONDS = 60

Start = Callable[[list[str]], BaseProcess]


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """Return a copy of the data, to damage."""
    return shutil.copytree(data, tmp_path / "data")


@pytest.fixture
def settings(corpus: Path, copy: Path) -> PrepareSettings:
    """Return what the copy was made by."""
    return PrepareSettings(files=(corpus,), out=copy, vocab_size=300, validation_fraction=0.1)


@pytest.fixture
def fresh(settings: PrepareSettings, tmp_path: Path) -> PrepareSettings:
    """Return the same, to be made in a directory that is not there yet."""
    return settings.model_copy(update={"out": tmp_path / "fresh"})


def split_text(prepared: PreparedData, name: str) -> list[str]:
    text = prepared.tokenizer.decode(np.asarray(getattr(prepared, name)))
    before, *documents = text.split(EOT)
    assert before == "", "a document follows a separator"
    return documents


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def identity(path: Path) -> tuple[int, int, bytes]:
    """Return what a file keeps when it moves, and does not when it is made again."""
    return path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    return {path.name: identity(path) for path in directory.iterdir()}


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# --- what there is in the end


def test_the_tokens_are_the_text_and_nothing_else(data: Path, documents: list[str]) -> None:
    prepared = PreparedData.open(data)
    train, validation = split_text(prepared, "train"), split_text(prepared, "validation")
    assert sorted(train + validation) == sorted(documents)
    assert train == [document for document in documents if document in train]
    assert 0 < len(validation) < len(train)


def test_the_manifest_says_what_there_is(data: Path, corpus: Path) -> None:
    prepared = PreparedData.open(data)
    manifest = json.loads((data / "manifest.json").read_text())
    assert manifest == prepared.manifest
    assert manifest["version"] == 2
    assert manifest["vocab_size"] == prepared.tokenizer.vocab_size == 300
    assert manifest["dtype"] == prepared.train.dtype.name == "uint16"
    for name in ("train", "validation"):
        texts, tokens = split_text(prepared, name), getattr(prepared, name)
        split = manifest["splits"][name]
        assert split["documents"] == len(texts)
        assert split["bytes"] == len("".join(texts).encode())
        assert split["tokens"] == len(tokens)
        (shard,) = split["shards"]
        size = (data / f"{name}-00000.npy").stat().st_size
        assert {**shard, "sha256": ""} == {
            "file": f"{name}-00000.npy", "tokens": len(tokens), "bytes": size, "sha256": "",
        }  # fmt: skip
    prepared.verify()
    assert manifest["origin"]["files"][0]["bytes"] == corpus.stat().st_size
    assert set(contents(data)) == {
        "manifest.json", "tokenizer.json", "train-00000.npy", "validation-00000.npy",
    }  # fmt: skip


def test_text_in_all_kinds_of_files_is_the_same_data(
    fresh: PrepareSettings, corpus: Path, data: Path, documents: list[str], tmp_path: Path
) -> None:
    text = corpus.read_bytes()
    lines = "".join(json.dumps({"a": {"b": text}}) + "\n" for text in documents).encode()
    files = {
        "tales.txt.gz": gzip.compress(text),
        "tales.zst": zstandard.compress(text),
        "tales.jsonl": lines,
        "tales.jsonl.gz": gzip.compress(lines),
    }
    for name, content in files.items():
        path, out = tmp_path / name, tmp_path / f"data of {name}"
        path.write_bytes(content)
        changes = {"files": (path,), "out": out, "json_field": "a.b"}
        prepare(fresh.model_copy(update=changes))
        made, expected = contents(out), contents(data)
        del made["manifest.json"], expected["manifest.json"]  # which names the files
        assert made == expected, name
    mixed = [tmp_path / "a.txt", tmp_path / "b.jsonl.zst"]
    mixed[0].write_bytes(EOT.join(documents[:9]).encode())
    rest = "".join(json.dumps({"text": text}) + "\n" for text in documents[9:])
    mixed[1].write_bytes(zstandard.compress(rest.encode()))
    prepared = prepare(fresh.model_copy(update={"files": tuple(mixed)}))
    np.testing.assert_array_equal(prepared.train, PreparedData.open(data).train)


def test_the_number_of_workers_changes_nothing(fresh: PrepareSettings, tmp_path: Path) -> None:
    made: list[dict[str, bytes]] = []
    for workers in (1, 3):
        changes = {"workers": workers, "shard_bytes": 900, "out": tmp_path / str(workers)}
        prepare(fresh.model_copy(update=changes))
        made.append(contents(tmp_path / str(workers)))
    assert made[0] == made[1]
    assert len(made[0]) > 8


def test_the_vocabulary_is_learned_from_the_training_text_only(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("aaaa bbbb " * 30)
    (tmp_path / "other.txt").write_text("qqqq " * 900)
    prepared = prepare(
        PrepareSettings(
            files=(tmp_path / "train.txt",),
            validation=(tmp_path / "other.txt",),
            out=tmp_path / "data",
            vocab_size=260,
        )
    )
    assert not any(b"qq" in token for token in prepared.tokenizer.vocabulary.tokens.values())
    assert split_text(prepared, "validation") == ["qqqq " * 900]
    assert split_text(prepared, "train") == ["aaaa bbbb " * 30]


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes(b"one\r\ntwo\r\n\rthree\n" * 20)
    prepared = prepare(
        PrepareSettings(files=(tmp_path / "dos.txt",), out=tmp_path / "data", vocab_size=260)
    )
    text = split_text(prepared, "train") + split_text(prepared, "validation")
    assert "".join(text) == "one\r\ntwo\r\n\rthree\n" * 20


def test_all_files_are_used_in_order(tmp_path: Path) -> None:
    files = tuple(tmp_path / f"{name}.txt" for name in "cab")
    for path in files:
        path.write_text(f"text of {path.name}")
    prepared = prepare(
        PrepareSettings(files=files, out=tmp_path / "data", vocab_size=257, validation_fraction=0)
    )
    assert split_text(prepared, "train") == [f"text of {path.name}" for path in files]
    assert prepared.validation is None
    assert list(prepared.manifest["splits"]) == ["train"]


def test_a_given_tokenizer_is_used_as_it_is(fresh: PrepareSettings, data: Path) -> None:
    tokenizer = data / "tokenizer.json"
    prepared = prepare(fresh.model_copy(update={"tokenizer": tokenizer}))
    assert prepared.tokenizer.vocabulary == Tokenizer.load(tokenizer).vocabulary
    np.testing.assert_array_equal(prepared.train, PreparedData.open(data).train)


def test_the_command_tells_how_much_there_is(
    settings: PrepareSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    print_prepared(settings)
    shown = capsys.readouterr().out
    assert shown.startswith(f"{settings.out}: a vocabulary of 300 tokens\ntrain ")
    assert " bytes per token" in shown
    print_prepared(settings.model_copy(update={"json_output": True}))
    answer = json.loads(capsys.readouterr().out)
    split = PreparedData.open(settings.out).manifest["splits"]["validation"]
    assert (answer["out"], answer["vocab_size"]) == (str(settings.out), 300)
    assert answer["validation"] == {
        "documents": split["documents"],
        "bytes": split["bytes"],
        "tokens": split["tokens"],
        "bytes_per_token": split["bytes"] / split["tokens"],
    }


# --- done again, or of something else


def test_preparing_again_does_nothing(
    settings: PrepareSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(settings.out)
    prepare(settings)
    assert snapshot(settings.out) == before
    assert capsys.readouterr().err == f"{settings.out} is prepared already\n"


def test_the_same_text_elsewhere_is_the_same_data(
    settings: PrepareSettings, corpus: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(corpus, moved)
    before = snapshot(settings.out)
    prepare(settings.model_copy(update={"files": (moved / corpus.name,)}))
    assert snapshot(settings.out) == before


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "begun"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 301}, "vocab_size was 300, is 301"),
        ({"validation_fraction": 0.2}, r"validation_fraction was 0\.1, is 0\.2"),
        ({"shard_bytes": 999}, "shard_bytes was 67108864, is 999"),
        ({"files": "twice"}, r"files were tales\.txt, are tales\.txt, tales\.txt"),
        ({"files": "changed"}, r"tales\.txt has changed"),
        ({"validation": "same"}, r"validation was none, is tales\.txt"),
        ({"tokenizer": "given"}, r"tokenizer was None, is tokenizer\.json"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_data_of_something_else_is_left_alone(
    settings: PrepareSettings,
    corpus: Path,
    data: Path,
    finished: bool,
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not finished:
        shutil.rmtree(settings.out)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(module, "_make", interrupt)
            prepare(settings)
    changed = tmp_path / corpus.name
    changed.write_bytes(corpus.read_bytes().replace(b"cat", b"cow", 1))
    values = {
        "twice": (corpus, corpus),
        "same": (corpus,),
        "changed": (changed,),
        "given": data / "tokenizer.json",
    }
    other = {key: values.get(value, value) for key, value in changes.items()}
    before = contents(settings.out)
    with pytest.raises(ValueError, match=f"holds data of other files or settings .*: {message}; "):
        prepare(settings.model_copy(update=other))
    assert contents(settings.out) == before


@pytest.mark.parametrize("name", ["tokenizer.json", "train-00000.npy", "validation.npy"])
def test_files_of_somebody_else_are_not_overwritten(fresh: PrepareSettings, name: str) -> None:
    fresh.out.mkdir()
    (fresh.out / name).write_text("precious")
    (fresh.out / "notes.md").write_text("which is in nobody's way")
    with pytest.raises(ValueError, match=f"with the names of the data, got {name} without a mani"):
        prepare(fresh)
    assert set(contents(fresh.out)) == {name, "notes.md"}
    (fresh.out / name).unlink()
    prepare(fresh)
    assert (fresh.out / "notes.md").exists()


# --- what is wrong with the input


def test_a_tokenizer_without_the_separator_is_refused(
    fresh: PrepareSettings, tmp_path: Path
) -> None:
    Tokenizer({byte: bytes([byte]) for byte in range(256)}, []).save(tmp_path / "bytes.json")
    with pytest.raises(ValueError, match=r"bytes\.json must have the special token <\|endoftext"):
        prepare(fresh.model_copy(update={"tokenizer": tmp_path / "bytes.json"}))
    assert not fresh.out.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.txt", b"x", "got nothing left to train on; give more text"),
        ("empty.txt", b"", r"files must hold some text, got none in .*empty\.txt"),
        ("bad.txt", b"good\n" * 99 + b"\xff", r"bad\.txt must be UTF-8, .* at byte offset 495"),
        ("cut.gz", gzip.compress(b"good\n" * 99)[:-9], r"cut\.gz must be a whole gzip file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 1}\n', r"a\.jsonl, line 2 must have a text at"),
    ],
    ids=["short", "empty", "not UTF-8", "cut", "no text"],
)
def test_text_that_is_of_no_use_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    settings = PrepareSettings(
        files=(tmp_path / name,), out=tmp_path / "data", validation_fraction=0.5
    )
    with pytest.raises(ValueError, match=message):
        prepare(settings)
    assert not settings.out.exists()


def test_text_to_learn_from_is_not_held_out_too(fresh: PrepareSettings, tmp_path: Path) -> None:
    copied = shutil.copy(fresh.files[0], tmp_path / "copied.txt")
    both = fresh.model_copy(update={"validation": (Path(copied),)})
    with pytest.raises(ValueError, match=r"validation must be other text .*copied\.txt in both"):
        prepare(both)
    assert not fresh.out.exists()


def test_a_file_given_twice_is_refused(fresh: PrepareSettings) -> None:
    (path,) = fresh.files
    again = path.parent / ".." / path.parent.name / path.name
    with pytest.raises(ValueError, match=r"files must name each file once, got .* twice"):
        prepare(fresh.model_copy(update={"files": (path, again)}))
    assert not fresh.out.exists()


def test_what_was_there_before_bad_text_came_stays(fresh: PrepareSettings, tmp_path: Path) -> None:
    fresh.out.mkdir()
    (tmp_path / "bad.txt").write_bytes(b"good\n" * 99 + b"\xff")
    with pytest.raises(ValueError, match="must be UTF-8"):
        prepare(fresh.model_copy(update={"files": (tmp_path / "bad.txt",)}))
    assert list(fresh.out.iterdir()) == []


def test_a_file_in_place_of_the_directory_is_refused(fresh: PrepareSettings) -> None:
    fresh.out.write_text("precious")
    with pytest.raises(ValueError, match=r"out must be a directory, got the file .*fresh"):
        prepare(fresh)
    with pytest.raises(OSError, match="fresh"):
        prepare(fresh.model_copy(update={"out": fresh.out / "below"}))
    assert fresh.out.read_text() == "precious"


# --- interrupted, killed, out of room


def test_an_interrupted_preparation_keeps_what_is_finished(
    fresh: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = fresh.model_copy(update={"shard_bytes": 900})
    expected = prepare(fresh.model_copy(update={"out": tmp_path / "expected"}))
    kept: dict[str, tuple[int, int, bytes]] = {}
    steps: list[tuple[object, str, list[str]]] = [
        (module, "_make", []),
        (module, "_make_tokenizer", []),
        (Tokenizer, "encode_files", ["tokenizer.json"]),
        (module, "_publish", ["tokenizer.json", "train/shard-00003.npy"]),
        (module, "sync_directory", []),  # when some have moved
    ]
    for owner, name, finished in steps:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                prepare(fresh)
        assert not (fresh.out / "manifest.json").exists()
        for file in finished:
            made = identity(fresh.out / "unfinished" / file)
            assert kept.setdefault(file, made) == made, "it was made again"
    prepare(fresh)
    assert contents(fresh.out) == contents(tmp_path / "expected")
    assert identity(fresh.out / "tokenizer.json") == kept["tokenizer.json"]
    assert identity(fresh.out / "train-00003.npy") == kept["train/shard-00003.npy"]
    assert expected.manifest == json.loads((fresh.out / "manifest.json").read_text())


def test_what_a_killed_process_left_behind_is_cleared_away(
    settings: PrepareSettings, data: Path
) -> None:
    work = settings.out / "unfinished"
    shutil.rmtree(settings.out)
    work.mkdir(parents=True)
    (work / ".train.txt.0123abcd.tmp").write_bytes(b"half of it")
    (work / "validation.txt").write_bytes(b"of another moment")
    prepare(settings)
    assert contents(settings.out) == contents(data)
    (work / "train").mkdir(parents=True)  # as if it had been killed at the very end
    (work / "plan.json").write_text("{}")
    prepare(settings)
    assert contents(settings.out) == contents(data)
    assert not work.exists()


def test_what_a_killed_process_left_behind_makes_room_before_more_is_written(
    fresh: PrepareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind = fresh.out / "unfinished" / ".train.txt.0123abcd.tmp"
    left_behind.parent.mkdir(parents=True)
    left_behind.write_bytes(b"half of it")
    write_texts = module.write_texts

    def write_with_room(*arguments: Any, **options: Any) -> Any:
        assert not left_behind.exists()
        return write_texts(*arguments, **options)

    monkeypatch.setattr(module, "write_texts", write_with_room)
    prepare(fresh)


def test_the_same_directory_by_another_path_goes_on(
    fresh: PrepareSettings, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fresh.out.parent)
    with monkeypatch.context() as patch:
        patch.setattr(module, "token_dtype", interrupt)  # when all is encoded
        with pytest.raises(KeyboardInterrupt):
            prepare(fresh.model_copy(update={"out": Path("fresh")}))
    prepare(fresh)
    assert contents(fresh.out) == contents(data)


def test_a_damaged_plan_is_refused_with_advice(fresh: PrepareSettings) -> None:
    (fresh.out / "unfinished").mkdir(parents=True)
    (fresh.out / "unfinished" / "plan.json").write_text('{"ori')
    with pytest.raises(ValueError, match=r"plan\.json must be a JSON .*unfinished and begin again"):
        prepare(fresh)


def test_two_at_a_time_are_kept_apart(
    fresh: PrepareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.0)
    (fresh.out / "unfinished").mkdir(parents=True)
    lock = FileLock(fresh.out / "unfinished" / ".lock")
    with lock, pytest.raises(ValueError, match="fresh is being prepared by another process"):
        prepare(fresh)
    prepare(fresh)


def test_a_worker_that_dies_is_told_with_advice(
    fresh: PrepareSettings, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise BrokenProcessPool("terminated abruptly")

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "encode_files", die)
        with pytest.raises(OSError, match=r"a worker process ended .* with fewer --workers"):
            prepare(fresh)
    prepare(fresh)
    assert contents(fresh.out) == contents(data)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="there are no such limits on Windows")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("room", ["text", "tokens"])
def test_a_full_disk_is_told_and_the_same_command_goes_on(
    fresh: PrepareSettings, tmp_path: Path, room: str, workers: int
) -> None:
    # A vocabulary of bytes: the tokens take twice the room of the text.
    fresh = fresh.model_copy(
        update={"vocab_size": 257, "validation_fraction": 0.0, "workers": workers}
    )
    expected = prepare(fresh.model_copy(update={"out": tmp_path / "expected"}))
    size_bytes = expected.manifest["splits"]["train"]["bytes"]
    limit = size_bytes // 2 if room == "text" else size_bytes + size_bytes // 2
    with files_of_at_most(limit), pytest.raises(OSError, match="make room, and the same") as error:
        prepare(fresh)
    assert "fresh" in str(error.value.filename)
    assert fresh.out.exists() is (room == "tokens")
    prepare(fresh)
    assert contents(fresh.out) == contents(tmp_path / "expected")


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 400 documents of about 2 kB."""
    chance = random.Random(3)
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(1, 7))) for _ in range(2000)]
    path = tmp_path_factory.mktemp("long") / "long.txt"
    path.write_text(EOT.join(" ".join(chance.choices(words, k=400)) for _ in range(400)))
    return path


def command(corpus: Path, out: Path, *, workers: int) -> list[str]:
    return [
        "prepare", str(corpus), "--out", str(out), "--vocab-size", "600",
        "--shard-bytes", "8000", "--workers", str(workers),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(long_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a preparation that nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    assert main(command(long_corpus, out, workers=1)) == 0
    return contents(out)


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a starter of the command in processes of their own, forks of this one."""
    if "fork" not in get_all_start_methods():
        pytest.skip("there are no forks on Windows")
    started: list[BaseProcess] = []

    def start(arguments: list[str]) -> BaseProcess:
        started.append(get_context("fork").Process(target=main, args=(arguments,)))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def test_a_killed_preparation_goes_on_where_it_was(
    start: Start, long_corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "data"
    shards = out / "unfinished" / "train"
    process = start(command(long_corpus, out, workers=1))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (shards / "shard-00004.npy").exists() and process.is_alive():
        assert time.monotonic() < deadline, "nothing happened"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    finished = {name: made for name, made in snapshot(shards).items() if name.startswith("shard")}
    assert len(finished) >= 5
    assert main(command(long_corpus, out, workers=2)) == 0
    assert contents(out) == undisturbed
    in_the_end = snapshot(out)
    for name, made in finished.items():
        assert in_the_end[name.replace("shard", "train")] == made, "it was made again"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_preparation_killed_again_and_again_ends_the_same(
    seed: int,
    start: Start,
    long_corpus: Path,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
) -> None:
    chance = random.Random(seed)
    out = tmp_path / "data"
    killed, longest_seconds = 0, 0.6
    while killed < 4:
        process = start(command(long_corpus, out, workers=chance.choice([1, 2])))
        process.join(chance.uniform(0.0, longest_seconds))
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was quicker: from the start, and sooner
            shutil.rmtree(out)
            longest_seconds *= 0.7
        else:
            assert process.exitcode == -signal.SIGKILL
            killed += 1
    assert main(command(long_corpus, out, workers=2)) == 0
    assert contents(out) == undisturbed
