"""Files as shards of ids: those of the texts, whoever makes them and however often they begin."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import zstandard

from scratch.bpe import ShardManifest, Tokenizer, Vocabulary, _encode_files, read_blocks
from scratch.bpe._npy import NpyWriter

EOT = "<|endoftext|>"
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer.from_vocabulary(vocabulary)


@pytest.fixture
def files(tmp_path: Path, corpus: str) -> list[Path]:
    """Plain, compressed and empty files, one of which ends with a special token."""
    pieces = {
        "a.txt": (corpus[:3000] + EOT).encode(),
        "empty.txt": b"",
        "b.txt.gz": gzip.compress(corpus[3000:5000].encode()),
        "c.txt": corpus[5000:6500].encode(),
        "d.txt.zst": zstandard.compress(corpus[6500:7000].encode()),
        "e.txt": b"",
    }
    for name, data in pieces.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in pieces]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def expected_ids(
    tokenizer: Tokenizer, files: Sequence[Path], end_of_file: str | None = None
) -> list[int]:
    ids: list[int] = []
    for path in files:
        text = b"".join(read_blocks(path, errors="replace")).decode()
        ids += tokenizer.encode_to_numpy(text).tolist()
        ids += [] if end_of_file is None else [tokenizer.special_tokens[end_of_file]]
    return ids


def ids_of(manifest: ShardManifest) -> list[int]:
    arrays = list(manifest.arrays())
    assert {array.dtype.name for array in arrays} == {manifest.dtype}
    return np.concatenate(arrays).tolist()


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """What each file holds, when it was written, and which one it is."""
    about = {path: path.stat() for path in folder.iterdir()}
    return {
        path.name: (path.read_bytes(), stat.st_mtime_ns, stat.st_ino)
        for path, stat in about.items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- What is in the shards


@pytest.mark.parametrize("end_of_file", [None, EOT])
@pytest.mark.parametrize("shard_bytes", [1, 2, 7, 100, 1000, 2**26])
def test_joined_shards_are_the_ids_of_each_file_in_order(
    tokenizer: Tokenizer, files: list[Path], out: Path, shard_bytes: int, end_of_file: str | None
) -> None:
    manifest = tokenizer.encode_files(files, out, shard_bytes=shard_bytes, end_of_file=end_of_file)
    assert ids_of(manifest) == expected_ids(tokenizer, files, end_of_file)
    assert ShardManifest.load(out) == manifest


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_writes_the_same(
    tokenizer: Tokenizer, files: list[Path], tmp_path: Path, workers: int
) -> None:
    options = {"shard_bytes": 300, "end_of_file": EOT}
    tokenizer.encode_files(files, tmp_path / "one", **options)
    tokenizer.encode_files(files, tmp_path / "many", **options, workers=workers)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.parametrize("shard_bytes", [50, 500])
def test_a_custom_pattern_and_special_tokens_that_overlap_stay_whole(
    tokenizer: Tokenizer, corpus: str, tmp_path: Path, out: Path, shard_bytes: int
) -> None:
    specials = (" if", "if it", EOT, "\n\n", "\u3000")
    (tmp_path / "file").write_bytes(corpus[:5000].encode())
    for number, pattern in enumerate(["gpt2", "cl100k", "o200k", r"\w+ ?\w+|\S"]):
        vocabulary = tokenizer.vocabulary
        other = Tokenizer(vocabulary.tokens, vocabulary.merges, specials, pattern=pattern)
        manifest = other.encode_files(
            tmp_path / "file", out / str(number), shard_bytes=shard_bytes, end_of_file=EOT
        )
        assert len(manifest.shards) > 1
        assert ids_of(manifest) == expected_ids(other, [tmp_path / "file"], EOT)


def test_ids_beyond_two_bytes_take_four(
    vocabulary: Vocabulary, files: list[Path], out: Path
) -> None:
    tokens = {**vocabulary.tokens, 2**16: b"<far>"}
    tokenizer = Tokenizer(tokens, vocabulary.merges, [EOT, "<far>"])
    manifest = tokenizer.encode_files(files, out, shard_bytes=500, end_of_file="<far>")
    assert (manifest.dtype, manifest.vocab_size) == ("uint32", 2**16 + 1)
    assert ids_of(manifest) == expected_ids(tokenizer, files, "<far>")
    assert max(ids_of(manifest)) == 2**16


def test_shards_are_as_long_as_asked(
    tokenizer: Tokenizer, corpus: str, tmp_path: Path, out: Path
) -> None:
    (tmp_path / "file").write_bytes(corpus.encode())
    manifest = tokenizer.encode_files(tmp_path / "file", out, shard_bytes=4000)
    sizes = [shard.num_bytes for shard in manifest.shards]
    assert len(sizes) > 9
    assert all(4000 <= size < 4300 for size in sizes[:-1])


def test_small_files_share_a_shard(tokenizer: Tokenizer, tmp_path: Path, out: Path) -> None:
    paths = [tmp_path / str(number) for number in range(30)]
    for number, path in enumerate(paths):
        path.write_text(f"the {number:02}")
    manifest = tokenizer.encode_files(paths, out, shard_bytes=30, end_of_file=EOT)
    assert [shard.num_bytes for shard in manifest.shards] == [30] * 6
    assert ids_of(manifest) == expected_ids(tokenizer, paths, EOT)


@pytest.mark.parametrize("end_of_file", [None, EOT])
def test_empty_files_have_nothing_but_their_end(
    tokenizer: Tokenizer, tmp_path: Path, out: Path, end_of_file: str | None
) -> None:
    (tmp_path / "empty").touch()
    paths = [tmp_path / "empty"] * 2
    manifest = tokenizer.encode_files(paths, out, end_of_file=end_of_file)
    assert len(manifest.shards) == 1
    assert ids_of(manifest) == expected_ids(tokenizer, paths, end_of_file)
    assert ShardManifest.load(out).num_tokens == (0 if end_of_file is None else 2)


def test_a_file_may_come_twice(tokenizer: Tokenizer, files: list[Path], out: Path) -> None:
    twice = [files[0], files[0]]
    manifest = tokenizer.encode_files(twice, out, shard_bytes=1000, end_of_file=EOT)
    assert ids_of(manifest) == expected_ids(tokenizer, twice, EOT)


def test_bytes_that_are_not_utf8_may_be_replaced(
    tokenizer: Tokenizer, tmp_path: Path, out: Path
) -> None:
    rng = random.Random(0)
    pieces = [b"the ", b"\n", b"\xff", b"\xe2\x82", b"\xf0\x9f\x98", "\u20ac".encode(), b"geese"]
    (tmp_path / "file").write_bytes(b"".join(rng.choices(pieces, k=2000)))
    manifest = tokenizer.encode_files(tmp_path / "file", out, shard_bytes=100, errors="replace")
    assert len(manifest.shards) > 20
    assert ids_of(manifest) == expected_ids(tokenizer, [tmp_path / "file"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_a_file_too(tokenizer: Tokenizer, corpus: str, tmp_path: Path, out: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit((tmp_path / "pipe").write_bytes, corpus.encode())
        manifest = tokenizer.encode_files(tmp_path / "pipe", out, shard_bytes=100)
        writer.result()
    assert ids_of(manifest) == tokenizer.encode(corpus)


@pytest.mark.parametrize("form", [str, Path])
def test_paths_may_be_one_or_several_strings_or_paths(
    tokenizer: Tokenizer, files: list[Path], out: Path, form: type
) -> None:
    one = tokenizer.encode_files(form(files[0]), form(out / "deep" / "one"))
    assert one.folder == out / "deep" / "one"
    assert ids_of(one) == expected_ids(tokenizer, files[:1])
    several = tokenizer.encode_files(tuple(map(form, files)), form(out / "several"))
    assert ids_of(several) == expected_ids(tokenizer, files)


@pytest.mark.parametrize("workers", [1, 2])
def test_paths_may_be_relative(
    tokenizer: Tokenizer, files: list[Path], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.chdir(files[0].parent)
    names = [path.name for path in files]
    options = {"shard_bytes": 500, "workers": workers}
    manifest = tokenizer.encode_files(names, "relative", **options)
    assert ids_of(manifest) == expected_ids(tokenizer, files)
    Path("relative/shard-00001.npy").unlink()
    assert tokenizer.encode_files(names, Path("relative"), **options) == manifest
    assert ids_of(ShardManifest.load("relative")) == expected_ids(tokenizer, files)


# --- What is told


def test_the_manifest_tells_of_everything(
    tokenizer: Tokenizer, files: list[Path], out: Path
) -> None:
    manifest = tokenizer.encode_files(files, out, shard_bytes=1000)
    assert manifest.folder == out
    assert (manifest.dtype, manifest.vocab_size) == ("uint16", tokenizer.vocab_size)
    assert manifest.num_bytes == sum(path.stat().st_size for path in files)
    assert manifest.num_tokens == len(expected_ids(tokenizer, files))
    for shard in manifest.shards:
        assert shard.num_tokens == len(np.load(out / shard.file))
    names = {shard.file for shard in manifest.shards}
    assert names == {f"shard-{number:05d}.npy" for number in range(len(manifest.shards))}
    assert {path.name for path in out.iterdir()} == names | {
        "manifest.json",
        "plan.json",
        "tokenizer.json",
    }
    assert Tokenizer.load(out / "tokenizer.json").vocabulary == tokenizer.vocabulary


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_up_to_all_bytes(
    tokenizer: Tokenizer, files: list[Path], out: Path, workers: int
) -> None:
    calls: list[tuple[str, int, int]] = []
    manifest = tokenizer.encode_files(
        files, out, shard_bytes=500, workers=workers, progress=lambda *call: calls.append(call)
    )
    total = manifest.num_bytes
    done = np.cumsum([shard.num_bytes for shard in manifest.shards]).tolist()
    assert calls == [("encode", each, total) for each in done]


def test_progress_goes_on_where_it_was(tokenizer: Tokenizer, files: list[Path], out: Path) -> None:
    manifest = tokenizer.encode_files(files, out, shard_bytes=500)
    last = manifest.shards[-1]
    (out / last.file).unlink()
    calls: list[tuple[str, int, int]] = []
    tokenizer.encode_files(files, out, shard_bytes=500, progress=lambda *call: calls.append(call))
    assert calls == [("encode", manifest.num_bytes, manifest.num_bytes)]


# --- What was begun is finished


def test_only_what_is_missing_is_made_again(
    tokenizer: Tokenizer, files: list[Path], out: Path
) -> None:
    options = {"shard_bytes": 300, "end_of_file": EOT}
    manifest = tokenizer.encode_files(files, out, **options)
    before = snapshot(out)
    rng = random.Random(0)
    for workers in (1, 2):
        removed = {shard.file for shard in rng.sample(manifest.shards, 4)} | {"manifest.json"}
        for name in removed:
            (out / name).unlink()
        assert tokenizer.encode_files(files, out, **options, workers=workers) == manifest
        after = snapshot(out)
        assert {name: data for name, (data, *_) in after.items()} == {
            name: data for name, (data, *_) in before.items()
        }
        made = {name for name in after if after[name] != before[name]}
        assert made == removed
        before = after


def test_a_finished_folder_stays_as_it_is(
    tokenizer: Tokenizer, files: list[Path], out: Path
) -> None:
    manifest = tokenizer.encode_files(files, out, shard_bytes=500)
    before = snapshot(out)
    assert tokenizer.encode_files(files, out, shard_bytes=500) == manifest
    after = snapshot(out)
    assert after.pop("manifest.json")[0] == before.pop("manifest.json")[0]
    assert after == before


@FORKS
@pytest.mark.parametrize("shard_bytes", [1500, 2**26])
def test_a_process_may_be_killed_at_any_moment(
    tokenizer: Tokenizer, files: list[Path], tmp_path: Path, shard_bytes: int
) -> None:
    def encode(out: Path) -> None:
        tokenizer.encode_files(files, out, shard_bytes=shard_bytes, end_of_file=EOT)

    encode(tmp_path / "unbroken")
    expected = contents(tmp_path / "unbroken")
    moments = 0
    while killed_at(moments, tmp_path / str(moments), encode):
        encode(tmp_path / str(moments))
        assert contents(tmp_path / str(moments)) == expected
        moments += 1
    assert moments > 3 * len(expected)  # each is opened, given its name, and more


def killed_at(moment: int, out: Path, encode: Callable[[Path], None]) -> bool:
    """Kill a fork when it opens, renames or removes something in `out` for that many times."""
    child = os.fork()
    if child == 0:
        left = moment

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in ("open", "os.mkdir", "os.rename", "os.remove") and str(
                arguments[0]
            ).startswith(str(out)):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        try:
            sys.addaudithook(watch)
            encode(out)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@FORKS
def test_a_process_may_be_killed_together_with_its_workers_or_alone(
    tokenizer: Tokenizer, corpus: str, tmp_path: Path, out: Path
) -> None:
    script = """if __name__ == "__main__":
        import sys
        from scratch.bpe import Tokenizer
        print("begun", flush=True)
        Tokenizer.load(sys.argv[1]).encode_files(
            sys.argv[2], sys.argv[3], shard_bytes=1000, workers=2,
            progress=lambda *call: print(*call, flush=True),
        )
    """
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "file").write_bytes(corpus.encode() * 5)
    tokenizer.encode_files(tmp_path / "file", tmp_path / "unbroken", shard_bytes=1000)
    command = [sys.executable, "-c", script, *(tmp_path / x for x in ("tokenizer", "file", "out"))]
    rng = random.Random(0)
    for round_ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert process.stdout is not None
            for _ in range(rng.randrange(1, 50)):
                assert process.stdout.readline()
            if round_ % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.communicate(timeout=60)  # until the last worker has ended
        assert process.returncode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    tokenizer.encode_files(tmp_path / "file", out, shard_bytes=1000)
    assert contents(out) == contents(tmp_path / "unbroken")


def test_what_a_killed_process_left_is_removed_and_nothing_else(
    tokenizer: Tokenizer, files: list[Path], out: Path
) -> None:
    out.mkdir()
    kept = [out / name for name in ("notes.txt", ".hidden", ".other.npy.0000.tmp")]
    left = [
        out / f".{name}.01234567.tmp"
        for name in ("shard-00000.npy", "plan.json", "tokenizer.json", "manifest.json")
    ]
    for path in (*kept, *left):
        path.write_bytes(b"text")
    tokenizer.encode_files(files, out)
    assert all(path.read_bytes() == b"text" for path in kept)
    assert not any(path.exists() for path in left)


# --- What is refused


def test_a_folder_with_another_plan_is_refused_and_untouched(
    tokenizer: Tokenizer, vocabulary: Vocabulary, files: list[Path], out: Path
) -> None:
    options: dict[str, Any] = {"shard_bytes": 1000, "end_of_file": EOT}
    tokenizer.encode_files(files, out, **options)
    (out / "shard-00001.npy").unlink()
    (out / ".shard-00001.npy.01234567.tmp").touch()
    before = snapshot(out)
    shorter = Tokenizer(vocabulary.tokens, vocabulary.merges[:-1], vocabulary.special_tokens)
    for other, paths, changes in (
        (tokenizer, files, {"shard_bytes": 2000}),
        (tokenizer, files, {"end_of_file": None}),
        (tokenizer, files, {"errors": "replace"}),
        (tokenizer, files[:-1], {}),
        (tokenizer, files[::-1], {}),
        (tokenizer, [*files, files[0]], {}),
        (shorter, files, {}),
    ):
        with pytest.raises(ValueError, match=f"{out} holds shards of other files or settings"):
            other.encode_files(paths, out, **(options | changes))
        assert snapshot(out) == before


@pytest.mark.parametrize("change", ["size", "time", "compressed"])
def test_a_folder_of_files_that_have_changed_is_refused(
    tokenizer: Tokenizer, files: list[Path], out: Path, change: str
) -> None:
    tokenizer.encode_files(files, out, shard_bytes=1000)
    before = snapshot(out)
    path = files[2] if change == "compressed" else files[0]
    stat = path.stat()
    if change == "size":
        path.write_bytes(path.read_bytes() + b"!")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="holds shards of other files or settings already"):
        tokenizer.encode_files(files, out, shard_bytes=1000)
    assert snapshot(out) == before


def test_shards_without_their_plan_are_refused(
    tokenizer: Tokenizer, files: list[Path], out: Path
) -> None:
    tokenizer.encode_files(files, out)
    (out / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"must not hold shards without their plan\.json"):
        tokenizer.encode_files(files, out)
    (out / "shard-00000.npy").unlink()
    with pytest.raises(ValueError, match=r"must not hold shards without their plan\.json"):
        tokenizer.encode_files(files, out)  # there is a manifest still


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("order", ["first", "last"])
def test_a_file_that_fails_leaves_no_manifest_and_no_half_shard(
    tokenizer: Tokenizer, files: list[Path], tmp_path: Path, out: Path, workers: int, order: str
) -> None:
    (tmp_path / "latin").write_bytes(b"some words " * 200 + b"caf\xe9")
    paths = [tmp_path / "latin", *files] if order == "first" else [*files, tmp_path / "latin"]
    with pytest.raises(ValueError, match="latin must be UTF-8, got byte 0xe9 at byte offset 2203"):
        tokenizer.encode_files(paths, out, shard_bytes=500, workers=workers)
    left = contents(out)
    assert {"plan.json", "tokenizer.json"} <= set(left)
    assert "manifest.json" not in left
    assert not any(name.endswith(".tmp") for name in left)
    shards = takewhile(Path.exists, (out / f"shard-{number:05d}.npy" for number in count()))
    ids = [token_id for path in shards for token_id in np.load(path).tolist()]
    assert ids == expected_ids(tokenizer, paths)[: len(ids)] != []


def test_a_file_that_vanishes_is_an_error(
    tokenizer: Tokenizer, files: list[Path], out: Path
) -> None:
    def vanish(*_: object) -> None:
        files[3].unlink(missing_ok=True)

    with pytest.raises(FileNotFoundError, match=r"c\.txt"):
        tokenizer.encode_files(files, out, shard_bytes=1000, progress=vanish)
    assert not (out / "manifest.json").exists()


def test_a_file_that_gets_shorter_is_refused(
    tokenizer: Tokenizer, files: list[Path], out: Path
) -> None:
    with pytest.raises(ValueError, match=r"c\.txt must not get shorter while it is read"):
        tokenizer.encode_files(
            files, out, shard_bytes=1000, progress=lambda *_: os.truncate(files[3], 100)
        )
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_caller_leaves_what_can_be_finished(
    tokenizer: Tokenizer,
    files: list[Path],
    tmp_path: Path,
    out: Path,
    workers: int,
    error: type[BaseException],
) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise error

    with pytest.raises(error):
        tokenizer.encode_files(files, out, shard_bytes=500, workers=workers, progress=interrupt)
    assert not (out / "manifest.json").exists()
    assert not list(out.glob(".*"))
    tokenizer.encode_files(files, out, shard_bytes=500)
    tokenizer.encode_files(files, tmp_path / "unbroken", shard_bytes=500)
    assert contents(out) == contents(tmp_path / "unbroken")


def test_calls_may_overlap(tokenizer: Tokenizer, files: list[Path], tmp_path: Path) -> None:
    inner: list[ShardManifest] = []

    def encode_others(*_: object) -> None:
        folder = tmp_path / f"inner {len(inner)}"
        inner.append(tokenizer.encode_files(files[:1], folder, shard_bytes=500))

    outer = tokenizer.encode_files(
        files, tmp_path / "outer", shard_bytes=500, progress=encode_others
    )
    assert ids_of(outer) == expected_ids(tokenizer, files)
    assert len(inner) == len(outer.shards)
    assert all(ids_of(each) == expected_ids(tokenizer, files[:1]) for each in inner)


def test_a_tokenizer_that_changes_meanwhile_is_refused(
    tokenizer: Tokenizer, files: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.encode_files(files, out)
    (out / "shard-00000.npy").unlink()
    path = out / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    monkeypatch.setattr(_encode_files, "_HANDED_DOWN", Forgetful())  # as in another process
    with pytest.raises(ValueError, match=f"{path} must not change while files are encoded"):
        tokenizer.encode_files(files, out)


class Forgetful(dict[str, Tokenizer]):
    def __setitem__(self, key: str, value: Tokenizer) -> None:
        pass


def test_the_plan_is_written_before_anything_is_encoded(
    tokenizer: Tokenizer, files: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[set[str]] = []
    original = NpyWriter.__enter__

    def enter(self: NpyWriter) -> NpyWriter:
        written.append({path.name for path in out.iterdir()})
        return original(self)

    monkeypatch.setattr(NpyWriter, "__enter__", enter)
    tokenizer.encode_files(files, out)
    assert written == [{"plan.json", "tokenizer.json"}]
    plan = json.loads((out / "plan.json").read_bytes())
    assert list(plan["modified_ns"]) == sorted(map(str, files))


def test_bad_arguments_are_refused_before_anything_is_made(
    tokenizer: Tokenizer, files: list[Path], out: Path
) -> None:
    def refuse(error: type[Exception], message: str, *, paths: Any = files, **rest: Any) -> None:
        with pytest.raises(error, match=message):
            tokenizer.encode_files(paths, out, **rest)
        assert not out.exists()

    refuse(ValueError, "paths must name at least one file, got none", paths=[])
    refuse(FileNotFoundError, "nowhere", paths=[*files, out.with_name("nowhere")])
    refuse(
        ValueError, r"end_of_file must be a special token .*'<\|endo.*, got 'x'", end_of_file="x"
    )
    for shard_bytes in (0, -1):
        refuse(ValueError, f"shard_bytes .* 1, got {shard_bytes}", shard_bytes=shard_bytes)
    for shard_bytes in (True, 2.0, "2"):
        refuse(TypeError, f"shard_bytes .* number, got {shard_bytes!r}", shard_bytes=shard_bytes)
    refuse(ValueError, 'errors must be "strict" or "replace"', errors="ignore")
    refuse(ValueError, "workers must be", workers=0)
    refuse(TypeError, "workers must be", workers=1.5)
    with ThreadPoolExecutor(1) as pool:
        refuse(ValueError, "workers must be None if", workers=2, executor=pool)


def test_a_tokenizer_without_special_tokens_has_no_end_of_file(
    vocabulary: Vocabulary, files: list[Path], out: Path
) -> None:
    tokenizer = Tokenizer(vocabulary.tokens, vocabulary.merges)
    with pytest.raises(ValueError, match=r"special token of the tokenizer \(none\), got 'x'"):
        tokenizer.encode_files(files, out, end_of_file="x")


def test_a_folder_that_is_a_file_is_an_error(tokenizer: Tokenizer, files: list[Path]) -> None:
    with pytest.raises(FileExistsError):
        tokenizer.encode_files(files[1:], files[0])


# --- What it takes


def chosen_workers(
    tokenizer: Tokenizer, files: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    chosen: list[int] = []
    original = _encode_files.executor_of

    def executor_of(executor: Executor | None, workers: int) -> Any:
        chosen.append(workers)
        return original(executor, 1)

    monkeypatch.setattr(_encode_files, "executor_of", executor_of)
    tokenizer.encode_files(files, out, shard_bytes=1000)
    return chosen[0]


def test_a_small_input_is_encoded_in_this_process(
    tokenizer: Tokenizer, files: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen_workers(tokenizer, files, out, monkeypatch) == 1


def test_a_large_input_has_a_worker_a_core_but_none_without_a_shard(
    tokenizer: Tokenizer, files: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_encode_files, "_POOL_PAYS_BYTES", 10)
    for cores in (2, 1000):
        monkeypatch.setattr(_encode_files, "available_cores", lambda cores=cores: cores)
        found = chosen_workers(tokenizer, files, out / str(cores), monkeypatch)
        assert found == min(cores, len(list((out / str(cores)).glob("shard-*"))))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        pytest.param(partial(gzip.compress, compresslevel=1), marks=pytest.mark.slow, id="gzip"),
        pytest.param(zstandard.compress, marks=pytest.mark.slow, id="zstd"),
    ],
)
def test_memory_does_not_grow_with_the_files(
    tokenizer: Tokenizer, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    script = """
import sys
from pathlib import Path
from scratch.bpe import Tokenizer
manifest = Tokenizer.load(sys.argv[1]).encode_files(sys.argv[2], sys.argv[3], workers=1)
# Not resource.getrusage: its peak begins with that of the process which started this one.
(peak,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x[:5] == "VmHWM")
print(manifest.num_tokens, peak.split()[1])
"""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinsrh", k=rng.randrange(1, 10))) for _ in range(20_000)]
    text = " ".join(rng.choices(words, k=2**18)).encode()
    (tmp_path / "file").write_bytes(pack(text * (2**26 // len(text))))
    tokenizer.save(tmp_path / "tokenizer")
    command = [sys.executable, "-c", script, *(tmp_path / x for x in ("tokenizer", "file", "out"))]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    num_tokens, peak_kilobytes = map(int, finished.stdout.split())
    assert num_tokens > 2**20
    assert peak_kilobytes < 150 * 1000
