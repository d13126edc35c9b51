"""The command `bpe`: text to ids and back from a shell, and every mistake told in a line."""

import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scratch.bpe import ShardManifest, Tokenizer, Vocabulary, __version__, train_bpe_from_iterator
from scratch.bpe._cli import COMMANDS, build_parsers, main
from scratch.bpe._tiktoken import write_tiktoken

EOT = "<|endoftext|>"
NAMES = [command.name for command in COMMANDS]
BPE = [sys.executable, "-c", "import sys; from scratch.bpe._cli import main; sys.exit(main())"]
SCRIPT = f"""#!{sys.executable}
import sys
from scratch.bpe._cli import main
if __name__ == "__main__":
    sys.exit(main())
"""

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell, signals or a terminal")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, corpus: str, vocabulary: Vocabulary) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "corpus.txt").write_bytes(corpus.encode())
    (folder / "more.txt").write_bytes(corpus[:5000].encode())
    (folder / "more.txt.gz").write_bytes(gzip.compress(corpus[:5000].encode()))
    (folder / "bad.txt").write_bytes(b"good text \xff and more")
    vocabulary.save(folder / "tok.json")
    return folder


@pytest.fixture(autouse=True)
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of one's own that holds what is prepared."""
    for path in prepared.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer.from_vocabulary(vocabulary)


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Pipe bytes into the command that is run next."""

    def pipe_in(data: bytes) -> None:
        buffer = io.BufferedReader(io.BytesIO(data))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(buffer))

    return pipe_in


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what a command that fails tells, in one line on stderr."""

    def fail(*arguments: object) -> str:
        assert run(*arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("bpe: ")
        return line.removeprefix("bpe: ")

    return fail


@pytest.fixture
def misused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what is told of a command line that cannot be meant."""

    def misuse(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("usage: bpe")
        return captured.err.splitlines()[-1].split("error: ")[1]

    return misuse


def hidden_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


# --- the command itself


def test_the_package_has_the_command() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["bpe"].partition(":")
    assert getattr(import_module(module), name) is main


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("--version")
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"bpe {__version__}\n"


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_ends_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*([name] if name else []), "--help")
    assert stopped.value.code == 0
    told = capsys.readouterr().out.split("\nexamples:\n")[1].splitlines()
    assert 2 <= len(told) <= 3
    assert all(f"bpe {name}" in line for line in told)


@posix
@pytest.mark.parametrize(
    "name",
    ["", "train", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "train")],
)
def test_the_examples_work(name: str, place: Path) -> None:
    (place / "bin").mkdir()
    (place / "bin" / "bpe").write_text(SCRIPT)
    (place / "bin" / "bpe").chmod(0o755)
    assert run("encode", "corpus.txt", "-t", "tok.json", "-o", "ids.npy") == 0
    assert run("encode", "corpus.txt", "-t", "tok.json", "-o", "shards/") == 0
    parser, parsers = build_parsers()
    examples = str((parsers[name] if name else parser).epilog).partition("\n")[2]
    if name == "encode":
        shutil.rmtree(place / "shards")
    done = subprocess.run(
        ["bash", "-e", "-c", examples],
        env={**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"bpe: " not in done.stderr
    assert b"Traceback" not in done.stderr


def test_there_must_be_a_command(misused: Callable[..., str]) -> None:
    assert misused() == "the following arguments are required: COMMAND"
    assert "choose from" in misused("frobnicate")


def test_files_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    printed: list[str] = []
    for line in ("more.txt corpus.txt -t tok.json", "more.txt -t tok.json corpus.txt"):
        assert run("encode", *line.split()) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_after_two_dashes_all_are_files(place: Path) -> None:
    shutil.copy(place / "more.txt", place / "-t")
    assert run("stats", "-t", "tok.json", "--", "-t") == 0


# --- train


def test_train_writes_what_train_bpe_learns(
    place: Path, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"train corpus.txt more.txt -o out.json --vocab-size 500 --special-token {EOT}"
    assert run(*line.split(), "--pattern", "cl100k") == 0
    assert Vocabulary.load(place / "out.json") == train_bpe_from_iterator(
        [corpus, corpus[:5000]], vocab_size=500, special_tokens=[EOT], pattern="cl100k"
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("out.json: 500 tokens, ")
    assert captured.err.endswith(" MB/s\n")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("source", ["corpus.txt", "-"])
def test_rare_pairs_make_no_tokens(
    place: Path, corpus: str, feed: Callable[[bytes], None], source: str
) -> None:
    feed(corpus.encode())
    assert run("train", source, "-o", "out.json", "--min-frequency", 200) == 0
    learnt = Vocabulary.load(place / "out.json")
    assert learnt == train_bpe_from_iterator([corpus], vocab_size=32_000, min_frequency=200)
    assert 256 < len(learnt.tokens) < 500


def test_special_tokens_may_be_several(place: Path) -> None:
    line = "train corpus.txt -o out.json --vocab-size 300 --special-token <a> --special-token <b>"
    assert run(*line.split()) == 0
    assert Vocabulary.load(place / "out.json").special_tokens == ("<a>", "<b>")


def test_a_text_without_enough_pairs_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "short.txt").write_text("aab")
    assert run("train", "short.txt", "-o", "out.json") == 0
    assert "out.json: 258 tokens (the text has pairs for no more), " in capsys.readouterr().err


@posix
def test_a_pipe_with_a_name_is_learnt_like_a_file(
    place: Path, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(place / "fifo")
    with subprocess.Popen("cat corpus.txt > fifo", shell=True):
        assert run("train", "fifo", "-o", "out.json", "--vocab-size", 300) == 0
    expected = train_bpe_from_iterator([corpus], vocab_size=300)
    assert Vocabulary.load(place / "out.json") == expected
    assert "MB/s" not in capsys.readouterr().err  # nobody told how much there is


@pytest.mark.parametrize("names", [[], ["-"], ["more.txt", "-"]], ids=str)
@pytest.mark.parametrize("pattern", ["gpt2", r"\w+|\W+"])
def test_what_is_piped_in_is_learnt_like_a_file(
    feed: Callable[[bytes], None],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    pattern: str,
) -> None:
    monkeypatch.setattr("scratch.bpe._cli_inputs._BLOCK_BYTES", 1000)
    options = ["--vocab-size", 400, "--special-token", EOT, "--pattern", pattern]
    feed((place / "corpus.txt").read_bytes())
    assert run("train", *names, "-o", "piped.json", *options) == 0
    files = ["corpus.txt" if name == "-" else name for name in names or ["-"]]
    assert run("train", *files, "-o", "read.json", *options) == 0
    assert (place / "piped.json").read_bytes() == (place / "read.json").read_bytes()


def test_compressed_text_is_text(place: Path) -> None:
    for name in ("more.txt", "more.txt.gz"):
        assert run("train", name, "-o", f"{name}.json", "--vocab-size", 400) == 0
    first, second = (place / f"{name}.json" for name in ("more.txt", "more.txt.gz"))
    assert first.read_bytes() == second.read_bytes()


def test_a_tokenizer_is_replaced_only_by_a_whole_one(place: Path, told: Callable[..., str]) -> None:
    before = (place / "tok.json").read_bytes()
    told("train", "bad.txt", "-o", "tok.json")
    assert (place / "tok.json").read_bytes() == before
    assert run("train", "more.txt", "-o", "tok.json", "--vocab-size", 300) == 0
    assert len(Vocabulary.load(place / "tok.json").tokens) == 300
    assert hidden_files(place) == []


@pytest.mark.parametrize("source", ["bad.txt", "-"])
@pytest.mark.parametrize("command", ["train -o x.json", "encode -t tok.json", "stats -t tok.json"])
def test_bytes_that_are_no_text_are_refused_or_replaced(
    place: Path,
    told: Callable[..., str],
    feed: Callable[[bytes], None],
    source: str,
    command: str,
) -> None:
    name, *options = command.split()
    feed((place / "bad.txt").read_bytes())
    message = told(name, source, *options)
    where = "stdin" if source == "-" else source
    assert message == f"{where} must be UTF-8, got byte 0xff at byte offset 10: invalid start byte"
    feed((place / "bad.txt").read_bytes())
    assert run(name, source, *options, "--errors", "replace") == 0


@pytest.mark.parametrize("block_bytes", range(1, 7))
@pytest.mark.parametrize(
    ("data", "where", "reason"),
    [
        (b"caf\xc3", "0xc3 at byte offset 3", "unexpected end of data"),
        (b"caf\xc3\xa9\xe2\x82 ", "0xe2 at byte offset 5", "invalid continuation byte"),
    ],
)
def test_where_stdin_is_no_text_is_told_however_it_comes(
    told: Callable[..., str],
    feed: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    block_bytes: int,
    data: bytes,
    where: str,
    reason: str,
) -> None:
    monkeypatch.setattr("scratch.bpe._cli_inputs._BLOCK_BYTES", block_bytes)
    feed(data)
    message = told("train", "-o", "x.json")
    assert message == f"stdin must be UTF-8, got byte {where}: {reason}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nofile -o x.json", "nofile: No such file or directory"),
        (". -o x.json", ". is a folder; name the files in it, as in ./*"),
        ("more.txt -o .", "--out must be a file, got the folder ."),
        ("more.txt -o no/x.json", "--out must be in a folder that exists, got no/x.json; make no"),
        (
            "more.txt -o x.json --vocab-size 10",
            "vocab_size must be at least 256 (256 bytes and 0 special tokens), got 10",
        ),
        (
            "more.txt -o x.json --special-token a",
            "special_tokens must be longer than one byte, got 'a': "
            "every single byte is a token already",
        ),
    ],
)
def test_training_that_cannot_be_is_told(told: Callable[..., str], line: str, message: str) -> None:
    assert told("train", *line.split()) == message


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(
    told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "some temporary name")

    monkeypatch.setattr("scratch.bpe._cli_arguments.TemporaryFile", refuse)
    assert told("train", "more.txt", "-o", "x.json") == "x.json: Permission denied"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--pattern gpt3", "it must be gpt2, cl100k, o200k or a regular expression, got 'gpt3'"),
        ("--pattern [", "pattern must be one of gpt2, cl100k, o200k or a regular expression"),
        ("--vocab-size ten", "invalid int value: 'ten'"),
        ("--min-frequency 0", "it must be a whole number of at least 1, got '0'"),
        ("--workers -1", "it must be a whole number of at least 1, got '-1'"),
        ("--errors ignore", "invalid choice: 'ignore'"),
        ("- -", "- (stdin) can be read only once"),
        ("- --workers 2", "--workers is for files; stdin is counted by one process"),
    ],
)
def test_arguments_of_training_that_cannot_be_meant(
    misused: Callable[..., str], feed: Callable[[bytes], None], line: str, message: str
) -> None:
    feed(b"")
    assert message in misused("train", "-o", "x.json", *line.split())


@pytest.mark.parametrize("line", ["train -o x.json", "encode -t tok.json", "decode -t tok.json"])
def test_nobody_is_kept_waiting_at_a_terminal(
    misused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert misused(*line.split()) == "name a FILE, or pipe something in"


# --- encode


def test_ids_are_printed_one_a_line(
    tokenizer: Tokenizer, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("encode", "corpus.txt", "more.txt.gz", "-t", "tok.json") == 0
    printed = capsys.readouterr()
    ids = tokenizer.encode(corpus) + tokenizer.encode(corpus[:5000])
    assert printed.out == "".join(f"{token_id}\n" for token_id in ids)
    assert printed.err == ""


def test_stdin_is_encoded(
    tokenizer: Tokenizer, feed: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    feed("h\u00e9llo\r\n".encode())
    assert run("encode", "-t", "tok.json") == 0
    assert [int(line) for line in capsys.readouterr().out.split()] == tokenizer.encode(
        "h\u00e9llo\r\n"
    )


def test_of_no_text_there_are_no_ids(
    feed: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    feed(b"")
    assert run("encode", "-t", "tok.json") == 0
    assert capsys.readouterr() == ("", "")


def test_all_files_go_into_one_array(
    place: Path, tokenizer: Tokenizer, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty.txt").touch()
    line = f"encode corpus.txt empty.txt more.txt -t tok.json -o ids.npy --end-of-file {EOT}"
    assert run(*line.split()) == 0
    ids = np.load(place / "ids.npy")
    end = tokenizer.special_tokens[EOT]
    expected = [*tokenizer.encode(corpus), end, end, *tokenizer.encode(corpus[:5000]), end]
    assert ids.tolist() == expected
    assert ids.dtype == np.uint16
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"ids.npy: {len(expected):,} tokens, ")


def test_stdin_may_become_an_array(
    place: Path, tokenizer: Tokenizer, feed: Callable[[bytes], None]
) -> None:
    feed(b"some text")
    assert run("encode", "-", "-t", "tok.json", "-o", "ids.npy") == 0
    assert np.load(place / "ids.npy").tolist() == tokenizer.encode("some text")


def test_an_array_is_replaced_only_by_a_whole_one(place: Path, told: Callable[..., str]) -> None:
    (place / "ids.npy").write_bytes(b"old")
    told("encode", "more.txt", "bad.txt", "-t", "tok.json", "-o", "ids.npy")
    assert (place / "ids.npy").read_bytes() == b"old"
    assert hidden_files(place) == []


@pytest.mark.parametrize("name", ["shards", "shards/"])
def test_a_folder_gets_shards_and_a_manifest(
    place: Path, tokenizer: Tokenizer, corpus: str, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = f"encode corpus.txt more.txt -t tok.json -o {name} --shard-mb 0.01 --workers 2"
    assert run(*line.split(), "--end-of-file", EOT) == 0
    manifest = ShardManifest.load(place / "shards")
    assert len(manifest.shards) > 3
    end = tokenizer.special_tokens[EOT]
    expected = [*tokenizer.encode(corpus), end, *tokenizer.encode(corpus[:5000]), end]
    assert np.concatenate(list(manifest.arrays())).tolist() == expected
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f" {len(expected):,} tokens of " in captured.err
    assert f" in {len(manifest.shards)} shards, " in captured.err


@pytest.mark.parametrize("out", [None, "ids.npy", "shards/"])
def test_special_tokens_may_be_ordinary_text(
    place: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    out: str | None,
) -> None:
    text = f"the old {EOT} miller{EOT}"
    (place / "text.txt").write_text(text)
    option = [] if out is None else ["-o", out]
    assert run("encode", "text.txt", "-t", "tok.json", "--ordinary", *option) == 0
    printed = [int(line) for line in capsys.readouterr().out.split()]
    if out is not None:
        (path,) = place.rglob("shard-*.npy") if out == "shards/" else [place / out]
        printed = np.load(path).tolist()
    assert printed == tokenizer.encode_ordinary(text) != tokenizer.encode(text)


def test_ordinary_text_may_still_be_parted(place: Path, tokenizer: Tokenizer) -> None:
    (place / "text.txt").write_text(EOT)
    line = f"encode text.txt -t tok.json --ordinary --end-of-file {EOT} -o ids.npy"
    assert run(*line.split()) == 0
    expected = [*tokenizer.encode_ordinary(EOT), tokenizer.special_tokens[EOT]]
    assert np.load(place / "ids.npy").tolist() == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nofile -t tok.json", "nofile: No such file or directory"),
        ("more.txt nofile -t tok.json", "nofile: No such file or directory"),
        (". -t tok.json", ". is a folder; name the files in it, as in ./*"),
        ("more.txt -t nofile", "nofile: No such file or directory"),
        ("more.txt -t tok.json -o no/ids.npy", "--out must be in a folder that exists, "),
        ("more.txt -t tok.json -o more.txt/", "--out must be a folder, got the file more.txt"),
        (
            "more.txt -t tok.json --end-of-file <eof>",
            f"--end-of-file must be a special token ({EOT}), got '<eof>'",
        ),
    ],
)
def test_encoding_that_cannot_be_is_told(told: Callable[..., str], line: str, message: str) -> None:
    assert told("encode", *line.split()).startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-o ids.txt", "-o must be a name in .npy or a folder, got 'ids.txt'; without -o the ids"),
        ("-o -", "-o must be a name in .npy or a folder, got '-'"),
        ("-o x.npy --workers 2", "--workers is for shards: -o FOLDER"),
        ("--shard-mb 2", "--shard-mb is for shards: -o FOLDER"),
        ("-o x --shard-mb 0", "it must be a number greater than 0, got '0'"),
        ("-o x --shard-mb big", "it must be a number greater than 0, got 'big'"),
        ("-o x -", "shards are made of files, not of stdin; try -o ids.npy"),
        (f"-o x --ordinary --end-of-file {EOT}", "shards cannot have both --ordinary and"),
    ],
)
def test_arguments_of_encoding_that_cannot_be_meant(
    misused: Callable[..., str], line: str, message: str
) -> None:
    assert message in misused("encode", "more.txt", "-t", "tok.json", *line.split())


@pytest.mark.parametrize("command", ["train -o x.json", "encode -t tok.json", "stats -t tok.json"])
def test_an_extra_that_is_missing_is_named(
    place: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (place / "text.zst").write_bytes(b"\x28\xb5\x2f\xfd and so on")
    name, *options = command.split()
    assert 'pip install "scratch-bpe[zstd]"' in told(name, "text.zst", *options)


@pytest.mark.parametrize("command", ["train -o x.json", "encode -t tok.json", "stats -t tok.json"])
def test_a_compressed_file_that_is_cut_is_told(
    place: Path, told: Callable[..., str], command: str
) -> None:
    (place / "cut.gz").write_bytes((place / "more.txt.gz").read_bytes()[:-20])
    name, *options = command.split()
    assert told(name, "cut.gz", *options).startswith("cut.gz must be a whole gzip file: ")


# --- decode


def test_decoding_gives_the_exact_bytes(
    place: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = b"\xef\xbb\xbfcr\r\n lf\n \x00 nul, caf\xc3\xa9 " + EOT.encode()
    (place / "text.txt").write_bytes(text)
    assert run("encode", "text.txt", "-t", "tok.json") == 0
    (place / "ids.txt").write_bytes(capsysbinary.readouterr().out)
    assert run("decode", "ids.txt", "-t", "tok.json") == 0
    assert capsysbinary.readouterr().out == text


def test_bytes_that_are_no_text_come_out_as_they_are(
    feed: Callable[[bytes], None], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    feed(b"255 195")
    assert run("decode", "-t", "tok.json") == 0
    assert capsysbinary.readouterr().out == b"\xff\xc3"


@pytest.mark.parametrize("spaces", [b" ", b"\n", b"\t \r\n"], ids=str)
def test_any_white_space_parts_ids(
    feed: Callable[[bytes], None], capsysbinary: pytest.CaptureFixture[bytes], spaces: bytes
) -> None:
    feed(spaces.join([b"", b"104", b"105", b""]))
    assert run("decode", "-", "-t", "tok.json") == 0
    assert capsysbinary.readouterr().out == b"hi"


def test_long_streams_are_decoded_block_by_block(
    feed: Callable[[bytes], None],
    tokenizer: Tokenizer,
    corpus: str,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    ids = tokenizer.encode(corpus) * 8
    feed(" ".join(map(str, ids)).encode())  # the end of a block is somewhere in a number
    assert run("decode", "-t", "tok.json") == 0
    assert capsysbinary.readouterr().out == corpus.encode() * 8


@pytest.mark.parametrize("dtype", ["<u2", "<u4", ">i8"])
def test_arrays_are_known_by_their_content(
    place: Path,
    feed: Callable[[bytes], None],
    tokenizer: Tokenizer,
    corpus: str,
    capsysbinary: pytest.CaptureFixture[bytes],
    dtype: str,
) -> None:
    np.save(place / "ids.npy", np.array(tokenizer.encode(corpus) * 8, dtype))
    (place / "ids.npy").rename("ids.dat")
    assert run("decode", "ids.dat", "-t", "tok.json") == 0
    assert capsysbinary.readouterr().out == corpus.encode() * 8
    feed((place / "ids.dat").read_bytes())
    assert run("decode", "-t", "tok.json") == 0
    assert capsysbinary.readouterr().out == corpus.encode() * 8


def test_shards_are_decoded_in_their_order(
    place: Path, corpus: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run("encode", "corpus.txt", "-t", "tok.json", "-o", "shards", "--shard-mb", 0.01) == 0
    assert run("decode", *sorted(place.glob("shards/*.npy")), "-t", "tok.json") == 0
    assert capsysbinary.readouterr().out == corpus.encode()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (b"1 2 99999", "ids must be in the vocabulary of 900 tokens (0 to 899), got 99999"),
        (b"1 -2", "stdin must hold ids, whole numbers with white space between, got '-2' as"),
        (b"1\n2.5", "got '2.5' as number 2"),
        (b"[1, 2]", "got '[1,' as number 1"),
        (b"1_0", "got '1_0' as number 1"),
        (b"caf\xff", "got 'caf\\xff' as number 1"),
        (b"7" * 5000, f"got '{'7' * 30}' as number 1"),
        (b"1 " * 50_000 + b"x", "got 'x' as number 50,001"),
    ],
    ids=["unknown", "negative", "fraction", "list", "underscore", "bytes", "huge", "late"],
)
def test_what_is_no_id_is_told(
    feed: Callable[[bytes], None], capsys: pytest.CaptureFixture[str], ids: bytes, message: str
) -> None:
    feed(ids)
    assert run("decode", "-t", "tok.json") == 1
    told = capsys.readouterr().err
    assert told.startswith("bpe: ")
    assert message in told
    assert told.count("\n") == 1


def test_an_array_that_holds_no_ids_is_told(place: Path, told: Callable[..., str]) -> None:
    np.save(place / "table.npy", np.zeros((2, 2), np.uint16))
    np.save(place / "floats.npy", np.zeros(3, np.float32))
    np.save(place / "ids.npy", np.arange(100, dtype=np.uint16))
    whole = (place / "ids.npy").read_bytes()
    (place / "cut.npy").write_bytes(whole[:60])
    (place / "version.npy").write_bytes(whole[:6] + b"\x03" + whole[7:])
    message = "must hold one axis of whole numbers, got shape"
    assert told("decode", "table.npy", "-t", "tok.json").startswith(f"table.npy {message} (2, 2)")
    assert told("decode", "floats.npy", "-t", "tok.json").startswith(f"floats.npy {message} (3,)")
    assert told("decode", "cut.npy", "-t", "tok.json").startswith("cut.npy must be a .npy file:")
    message = "version.npy must be a .npy file: its version must be 1.0"
    assert told("decode", "version.npy", "-t", "tok.json") == message


def test_an_array_that_is_cut_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(place / "ids.npy", np.arange(100, dtype=np.uint16))
    (place / "ids.npy").write_bytes((place / "ids.npy").read_bytes()[:-21])
    assert run("decode", "ids.npy", "-t", "tok.json") == 1
    assert capsys.readouterr().err == "bpe: ids.npy must hold 100 ids, got 89: it is cut\n"


def test_a_write_that_takes_only_a_part_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []

    class Slow(io.RawIOBase):
        def write(self, data: Any) -> int:
            taken.append(bytes(data[:3]))
            return min(3, len(data))

    slow = SimpleNamespace(buffer=Slow(), flush=lambda: None, isatty=lambda: False)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", slow)
        assert run("encode", "more.txt", "-t", "tok.json") == 0
    written = b"".join(taken)
    assert written.count(b"\n") > 100
    assert run("encode", "more.txt", "-t", "tok.json", "-o", "ids.npy") == 0
    assert np.load("ids.npy").tolist() == [int(line) for line in written.split()]


# --- stats


def test_stats_as_json_are_those_of_counting(
    tokenizer: Tokenizer, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("stats", "corpus.txt", "more.txt.gz", "-t", "tok.json", "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    texts = [corpus, corpus[:5000]]
    ids = [tokenizer.encode(text) for text in texts]
    sizes = [len(text.encode()) for text in texts]
    for file, name, size, own in zip(
        found["files"], ["corpus.txt", "more.txt.gz"], sizes, ids, strict=True
    ):
        assert file == {
            "file": name,
            "bytes": size,
            "tokens": len(own),
            "bytes_per_token": pytest.approx(size / len(own)),
        }
    num_tokens = sum(map(len, ids))
    assert found["total"] == {
        "bytes": sum(sizes),
        "tokens": num_tokens,
        "bytes_per_token": pytest.approx(sum(sizes) / num_tokens),
    }
    used = len({*ids[0], *ids[1]})
    assert found["vocabulary"] == {
        "tokens": 900,
        "used": used,
        "never_used": 900 - used,
        "share_used": pytest.approx(used / 900),
    }
    longest = found["longest_tokens"]
    for each in longest:
        assert each["bytes"] == len(tokenizer.token_bytes(each["id"]))
        assert each["times_used"] == sum(own.count(each["id"]) for own in ids)
    lengths = sorted(map(len, tokenizer.vocabulary.tokens.values()), reverse=True)
    assert EOT not in [each["token"] for each in longest]
    special = lengths.index(len(EOT))
    assert [each["bytes"] for each in longest] == (lengths[:special] + lengths[special + 1 :])[:10]


def test_stats_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stats", "corpus.txt", "more.txt", "-t", "tok.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "bytes", "tokens", "bytes/token"]
    assert [line.split()[0] for line in lines[1:4]] == ["corpus.txt", "more.txt", "total"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[5].startswith("vocabulary: 900 tokens, ")
    assert lines[8].split() == ["token", "id", "bytes", "times", "used"]
    assert len(lines) == 9 + 10


def test_one_file_needs_no_total(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stats", "more.txt", "-t", "tok.json") == 0
    assert "total" not in capsys.readouterr().out


def test_of_an_empty_file_there_are_no_bytes_per_token(
    feed: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    feed(b"")
    assert run("stats", "-t", "tok.json") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["-", "0", "0", "-"]
    feed(b"")
    assert run("stats", "-t", "tok.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"]["bytes_per_token"] is None


def test_ids_with_gaps_are_counted(
    place: Path, vocabulary: Vocabulary, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = {token_id * 1000: token for token_id, token in vocabulary.tokens.items()}
    replace(vocabulary, tokens=tokens).save(place / "gaps.json")
    found: list[Any] = []
    for name in ("tok.json", "gaps.json"):
        assert run("stats", "corpus.txt", "-t", name, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["vocabulary"] == found[1]["vocabulary"]
    assert found[0]["total"] == found[1]["total"]


@posix
def test_names_that_are_no_text_can_be_shown(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"\xff.txt")
    try:
        shutil.copy(place / "more.txt", place / name)
    except OSError:
        pytest.skip("the file system knows no such names")
    assert main(["stats", name, "-t", "tok.json"]) == 0
    assert "\\udcff.txt" in capsys.readouterr().out


# --- export, and the tokenizers of others


def test_hugging_face_loads_what_is_exported(
    tokenizer: Tokenizer, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "-t", "tok.json", "--to", "hf", "-o", "tokenizer.json") == 0
    theirs = execute(capsys.readouterr().out)["tokenizer"]
    assert theirs.encode(corpus).ids == tokenizer.encode(corpus)


def test_tiktoken_loads_what_is_exported(
    tokenizer: Tokenizer, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "-t", "tok.json", "--to", "tiktoken", "-o", "tok.tiktoken") == 0
    theirs = execute(capsys.readouterr().out)["encoding"]
    assert theirs.encode(corpus, allowed_special="all") == tokenizer.encode(corpus)


def test_gpt2_files_load_where_it_is_said(
    place: Path, tokenizer: Tokenizer, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "-t", "tok.json", "--to", "gpt2", "-o", "models/gpt2/") == 0
    names = sorted(path.name for path in (place / "models" / "gpt2").iterdir())
    assert names == ["merges.txt", "vocab.json"]
    theirs = execute(capsys.readouterr().out)["tokenizer"]
    assert theirs.encode(corpus).ids == tokenizer.encode(corpus)


def execute(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.mark.parametrize(
    ("form", "out", "options"),
    [
        ("hf", "tokenizer.json", []),
        ("gpt2", "gpt2", []),
        ("gpt2", "gpt2", ["--special-token", EOT]),
        ("tiktoken", "tok.tiktoken", ["--pattern", "gpt2", "--special-token", f"{EOT}=899"]),
        ("scratch", "again.json", []),
    ],
)
def test_what_is_exported_is_understood_again(
    place: Path, vocabulary: Vocabulary, form: str, out: str, options: list[str]
) -> None:
    assert run("export", "-t", "tok.json", "--to", form, "-o", out) == 0
    (place / out).rename("unknown")
    assert run("export", "-t", "unknown", *options, "--to", "scratch", "-o", "back.json") == 0
    assert Vocabulary.load(place / "back.json") == vocabulary


def test_tokens_that_are_no_text_are_not_special(place: Path) -> None:
    assert run("export", "-t", "tok.json", "--to", "gpt2", "-o", "gpt2") == 0
    path = place / "gpt2" / "vocab.json"
    vocab = json.loads(path.read_bytes())
    path.write_text(json.dumps({**vocab, "\u00ff\u00fe": 900, "<pad>": 901}))
    assert run("export", "-t", "gpt2", "--to", "scratch", "-o", "back.json") == 0
    back = Vocabulary.load(place / "back.json")
    assert back.special_tokens == (EOT, "<pad>")
    assert back.tokens[900] == b"\xff\xfe"


def test_any_tokenizer_encodes(
    place: Path, tokenizer: Tokenizer, vocabulary: Vocabulary, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiktoken(vocabulary, place / "tok.tiktoken")
    line = f"encode more.txt -t tok.tiktoken --pattern gpt2 --special-token {EOT}=899"
    assert run(*line.split()) == 0
    ids = [int(token_id) for token_id in capsys.readouterr().out.split()]
    assert ids == tokenizer.encode((place / "more.txt").read_bytes().decode())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("corpus.txt", "corpus.txt must be a tokenizer: a file of bpe train, a tokenizer.json, "),
        ("list.json", "list.json must be a tokenizer: a file of bpe train, a tokenizer.json, "),
        (".", ". is a folder without a vocab.json and a merges.txt"),
        ("gpt2/vocab.json", "a vocab.json goes by its folder, gpt2"),
        ("tok.tiktoken", "does not hold the pattern of its words; add --pattern"),
        (
            f"tok.tiktoken --pattern gpt2 --special-token {EOT}",
            f"--special-token must be NAME=ID for a .tiktoken file, got '{EOT}'",
        ),
        (
            "tok.tiktoken --pattern gpt2 --special-token <a>=900 --special-token <a>=901",
            "--special-token must give each name once, got ['<a>=900', '<a>=901']",
        ),
        ("tok.json --pattern gpt2", "--pattern is for .tiktoken files, and tok.json knows its own"),
        ("tok.json --special-token <a>", "--special-token is for files without any, and tok.json"),
        ("newer.json", "newer.json must have version 1 or 2, got 99; a newer scratch-bpe may"),
        ("model.json", "model.json cannot be read as a Vocabulary: "),
    ],
)
def test_a_tokenizer_of_the_wrong_kind_is_told(
    place: Path, told: Callable[..., str], vocabulary: Vocabulary, line: str, message: str
) -> None:
    (place / "list.json").write_text("[1, 2]")
    (place / "newer.json").write_text('{"format": "scratch-bpe", "version": 99}')
    (place / "model.json").write_text('{"model": {}}')
    (place / "gpt2").mkdir()
    (place / "gpt2" / "vocab.json").write_text('{"!": 0, "a": 1}')
    write_tiktoken(vocabulary, place / "tok.tiktoken")
    assert message in told("encode", "more.txt", "-t", *line.split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hf -o .", "--out must be a file, got the folder ."),
        ("tiktoken -o no/x", "--out must be in a folder that exists, got no/x; make no"),
        ("gpt2 -o more.txt", "--out must be a folder, got the file more.txt"),
    ],
)
def test_an_export_that_cannot_be_is_told(
    told: Callable[..., str], line: str, message: str
) -> None:
    assert told("export", "-t", "tok.json", "--to", *line.split()) == message


def test_a_vocabulary_that_the_format_cannot_hold_is_told(
    place: Path, told: Callable[..., str], vocabulary: Vocabulary
) -> None:
    replace(vocabulary, pattern="o200k").save(place / "o200k.json")
    message = told("export", "-t", "o200k.json", "--to", "gpt2", "-o", "gpt2")
    assert message.startswith("pattern must be GPT2 in this format, got ")


# --- pipes, signals and terminals


@posix
def test_a_pipe_gives_back_the_very_text(place: Path) -> None:
    bpe = " ".join([sys.executable, "-c", f"'{BPE[2]}'"])
    done = subprocess.run(
        f"echo hi | {bpe} encode -t tok.json | {bpe} decode -t tok.json",
        shell=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi\n", b"")


@posix
@pytest.mark.parametrize("command", ["encode big.txt", "decode ids.npy"])
def test_a_pipe_that_nobody_reads_is_left_in_silence(
    place: Path, corpus: str, command: str
) -> None:
    (place / "big.txt").write_text(corpus * 20)
    if command.startswith("decode"):
        run("encode", "big.txt", "-t", "tok.json", "-o", "ids.npy")
    bpe = " ".join([sys.executable, "-c", f"'{BPE[2]}'"])
    done = subprocess.run(
        f"{bpe} {command} -t tok.json | head -c1",
        shell=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 1, b"")


@posix
@pytest.mark.parametrize("command", ["encode more.txt", "stats more.txt", "decode ids.txt"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_is_closed_already_is_left_in_silence(
    place: Path, command: str, unbuffered: str
) -> None:
    (place / "ids.txt").write_text("104 105")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*BPE, *command.split(), "-t", "tok.json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@posix
def test_interrupted_training_leaves_no_half_file(place: Path) -> None:
    process = subprocess.Popen(
        [*BPE, "train", "-o", "out.json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    with process:
        process.stdin.write(b"some words again and again\n" * 100_000)  # more than a pipe holds
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"bpe: interrupted\n")
    assert not (place / "out.json").exists()
    assert hidden_files(place) == []


@posix
def test_interrupted_shards_go_on_with_the_same_command(place: Path) -> None:
    random_text(place / "random.txt", num_words=600_000)
    line = "encode random.txt -t tok.json -o shards --shard-mb 0.25 --workers 2"
    process = subprocess.Popen(
        [*BPE, *line.split()], stderr=subprocess.PIPE, start_new_session=True
    )
    with process:
        while process.poll() is None and len(list(place.glob("shards/shard-*.npy"))) < 4:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b"bpe: interrupted; the same command goes on\n"
    assert not (place / "shards" / "manifest.json").exists()
    assert hidden_files(place) == []
    assert run(*line.split()) == 0
    assert run("encode", "random.txt", "-t", "tok.json", "-o", "ids.npy") == 0
    ids = np.concatenate(list(ShardManifest.load(place / "shards").arrays()))
    assert np.array_equal(ids, np.load(place / "ids.npy"))


@posix
def test_a_terminal_sees_progress_until_it_is_interrupted(place: Path) -> None:
    random_text(place / "random.txt", num_words=300_000)
    seen = b""
    with terminal() as (reader, writer):
        process = subprocess.Popen(
            [*BPE, "train", "random.txt", "-o", "out.json", "--vocab-size", "60000"],
            stdout=subprocess.PIPE,
            stderr=writer,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "", "COLUMNS": "80"},
        )
        with process:
            while b"merging" not in seen:
                seen += os.read(reader, 4096)
            os.killpg(process.pid, signal.SIGINT)
            out, _ = process.communicate(timeout=30)
        while not seen.endswith(b"interrupted\r\n"):
            seen += os.read(reader, 4096)
    assert (process.returncode, out) == (130, b"")
    lines = seen.split(b"\r\x1b[K")
    assert lines[0] == b""
    assert all(b"%  " in line and b"/s  " in line for line in lines[1:-1])
    assert lines[-1] == b"\r\nbpe: interrupted\r\n"
    assert not (place / "out.json").exists()
    assert hidden_files(place) == []


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Open a terminal: what is written to the second can be read from the first."""
    import pty

    reader, writer = pty.openpty()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def random_text(path: Path, *, num_words: int) -> None:
    """Write words that hardly ever come twice: much to merge."""
    rng = random.Random(0)
    path.write_text(" ".join(f"{rng.getrandbits(60):x}" for _ in range(num_words)))
