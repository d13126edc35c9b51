"""`bpe decode`: the bytes of ids, exactly, as they come."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ._cli_arguments import Command, write_bytes
from ._cli_inputs import STDIN, input_names
from ._cli_load import add_tokenizer, load_tokenizer

_EXAMPLES = """\
echo "Hello, world" | bpe encode -t tok.json | bpe decode -t tok.json
bpe decode ids.npy -t tok.json > again.txt
bpe decode shards/shard-*.npy -t tok.json | head -c 80"""

_BLOCK_IDS = 2**16
_MOST_DIGITS = 18  # of an id, so that it fits into 64 bits; no vocabulary has one as long


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="ids with white space between, or a .npy array; - or none: stdin",
    )
    add_tokenizer(parser)


def _run(settings: Namespace) -> None:
    names = input_names(settings.files)
    tokenizer = load_tokenizer(settings)
    for name in names:
        for ids in _read_ids(name):
            write_bytes(tokenizer.decode_bytes(ids))
            sys.stdout.buffer.flush()


def _read_ids(name: str) -> Iterator[Sequence[int] | NDArray[np.integer[Any]]]:
    """Yield the ids of an input in blocks. What it is, its first bytes tell."""
    with ExitStack() as stack:
        if name == STDIN:
            file, name = cast("BufferedReader", sys.stdin.buffer), "stdin"
        else:
            file = stack.enter_context(Path(name).open("rb"))
        is_npy = file.peek(len(npy.MAGIC_PREFIX)).startswith(npy.MAGIC_PREFIX)
        yield from _read_npy(file, name) if is_npy else _read_text(file, name)


def _read_npy(file: BufferedReader, name: str) -> Iterator[NDArray[np.integer[Any]]]:
    try:
        if npy.read_magic(file) != (1, 0):
            raise ValueError("its version must be 1.0")
        shape, _, dtype = npy.read_array_header_1_0(file)
    except ValueError as error:
        raise ValueError(f"{name} must be a .npy file: {error}") from None
    if len(shape) != 1 or dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold one axis of whole numbers, got shape {shape} of {dtype}"
        )
    (left,) = shape
    while left:
        data = file.read(min(left, _BLOCK_IDS) * dtype.itemsize)
        ids = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
        if not len(ids):
            raise ValueError(f"{name} must hold {shape[0]} ids, got {shape[0] - left}: it is cut")
        yield ids
        left -= len(ids)


def _read_text(file: BufferedReader, name: str) -> Iterator[Sequence[int]]:
    count, rest = 0, b""
    while block := file.read1(2**16):
        words = (rest + block).split()
        is_open = not block[-1:].isspace() and len(words[-1]) <= _MOST_DIGITS
        rest = words.pop() if is_open else b""
        yield _numbers(words, name, count)
        count += len(words)
    yield _numbers([rest] if rest else [], name, count)


def _numbers(words: Sequence[bytes], name: str, count: int) -> list[int]:
    for number, word in enumerate(words, start=count + 1):
        if not word.isdigit() or len(word) > _MOST_DIGITS:
            raise ValueError(
                f"{name} must hold ids, whole numbers with white space between, "
                f"got {repr(word[:30])[1:]} as number {number:,}"
            )
    return list(map(int, words))


DECODE = Command("decode", "Turn ids back into text.", _EXAMPLES, _add_arguments, _run)
