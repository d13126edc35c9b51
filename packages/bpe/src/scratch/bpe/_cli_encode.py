"""`bpe encode`: the ids of text, as text, in one array, or in shards."""

import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ._cli_arguments import (
    Command,
    UsageError,
    add_files,
    check_can_be_folder,
    check_can_write,
    say,
    speed,
    whole_number,
    write_bytes,
)
from ._cli_inputs import STDIN, input_names, read_inputs
from ._cli_load import add_tokenizer, load_vocabulary
from ._npy import NpyWriter, id_type
from ._progress import ProgressLine
from ._tokenizer import TokenIds, Tokenizer

_EXAMPLES = """\
echo "Hello, world" | bpe encode -t tok.json
bpe encode corpus.txt more.txt.gz -t tok.json -o ids.npy
bpe encode corpus.txt -t tok.json -o shards/ --workers 2"""


def _add_arguments(parser: ArgumentParser) -> None:
    add_files(parser)
    add_tokenizer(parser)
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        help="ids.npy for one array, or a folder for shards and a manifest, which the same command "
        "goes on with if it was stopped; without it the ids go to stdout, one a line",
    )
    parser.add_argument(
        "--ordinary", action="store_true", help="treat special tokens as text like any other"
    )
    parser.add_argument(
        "--end-of-file", metavar="TOKEN", help="a special token to put after each FILE"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=whole_number,
        help="processes that make shards (default: one, if much is to do one a core)",
    )
    parser.add_argument(
        "--shard-mb",
        metavar="N",
        dest="shard_bytes",
        type=_bytes_of_megabytes,
        help="about how much text goes into one shard, in MiB (default: 64)",
    )


def _run(settings: Namespace) -> None:
    names = input_names(settings.files)
    form = _form_of(settings.out)
    is_for_shards = {"--workers": settings.workers, "--shard-mb": settings.shard_bytes}
    if form == "shards":
        if STDIN in names:
            raise UsageError("shards are made of files, not of stdin; try -o ids.npy")
        if settings.ordinary and settings.end_of_file is not None:
            raise UsageError("shards cannot have both --ordinary and --end-of-file; try -o ids.npy")
    elif wrong := [flag for flag, value in is_for_shards.items() if value is not None]:
        raise UsageError(f"{wrong[0]} is for shards: -o FOLDER")
    tokenizer = Tokenizer.from_vocabulary(load_vocabulary(settings))
    end_id = _id_of(tokenizer, settings.end_of_file)
    if settings.ordinary:
        tokenizer = Tokenizer.from_vocabulary(replace(tokenizer.vocabulary, special_tokens=()))
    if form == "shards":
        _write_shards(tokenizer, names, settings)
        return
    start_time = time.perf_counter()
    with ProgressLine(visible=form == "array" or not sys.stdout.isatty()) as progress:
        inputs = read_inputs(names, errors=settings.errors, progress=progress)
        arrays = _encode(tokenizer, (blocks for _, blocks in inputs), end_id)
        if form == "text":
            _print_ids(arrays)
            return
        check_can_write(Path(settings.out))
        with NpyWriter(settings.out, id_type(tokenizer.vocab_size)) as file:
            for ids in arrays:
                file.write(ids)
    seconds = time.perf_counter() - start_time
    say(f"{settings.out}: {file.size:,} tokens, {speed(progress.done('encode'), seconds)}")


def _form_of(out: str | None) -> str:
    """Return what to write: "text", an "array" or "shards"."""
    if out is None:
        return "text"
    suffix = Path(out).suffix
    if Path(out).is_dir() or out.endswith(("/", os.sep)) or (out != STDIN and not suffix):
        return "shards"
    if suffix == ".npy":
        return "array"
    raise UsageError(
        f"-o must be a name in .npy or a folder, got {out!r}; without -o the ids go to stdout"
    )


def _id_of(tokenizer: Tokenizer, special: str | None) -> int | None:
    if special is None:
        return None
    if special not in tokenizer.special_tokens:
        known = ", ".join(tokenizer.special_tokens) or "none"
        raise ValueError(f"--end-of-file must be a special token ({known}), got {special!r}")
    return tokenizer.special_tokens[special]


def _encode(
    tokenizer: Tokenizer, inputs: Iterable[Iterator[bytes]], end_id: int | None
) -> Iterator[TokenIds]:
    for blocks in inputs:
        yield from tokenizer.encode_blocks(blocks)
        if end_id is not None:
            yield np.array([end_id], id_type(tokenizer.vocab_size))


def _print_ids(arrays: Iterable[TokenIds]) -> None:
    for ids in arrays:
        if len(ids):
            write_bytes("\n".join([*map(str, ids.tolist()), ""]).encode())


def _write_shards(tokenizer: Tokenizer, names: Sequence[str], settings: Namespace) -> None:
    check_can_be_folder(Path(settings.out))
    start_time = time.perf_counter()
    try:
        with ProgressLine() as progress:
            manifest = tokenizer.encode_files(
                names,
                settings.out,
                end_of_file=settings.end_of_file,
                shard_bytes=settings.shard_bytes or 2**26,
                workers=settings.workers,
                errors=settings.errors,
                progress=progress,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on") from None
    seconds, num_shards = time.perf_counter() - start_time, len(manifest.shards)
    say(
        f"{settings.out}: {manifest.num_tokens:,} tokens of {manifest.num_bytes:,} bytes "
        f"in {num_shards:,} shard{'s' * (num_shards != 1)}, {seconds:.1f} s"
    )


def _bytes_of_megabytes(text: str) -> int:
    try:
        size = int(float(text) * 2**20)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ArgumentTypeError(f"it must be a number greater than 0, got {text!r}")
    return size


ENCODE = Command("encode", "Turn text into ids.", _EXAMPLES, _add_arguments, _run)
