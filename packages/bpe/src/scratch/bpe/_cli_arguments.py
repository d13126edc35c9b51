"""What the commands of `bpe` share: how they are declared, and the kinds of their arguments."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from ._patterns import PATTERNS, resolve_pattern


@dataclass(frozen=True)
class Command:
    """A command: how it is called, and the function that runs it.

    Attributes:
        examples: lines that work as they stand, one after another.
    """

    name: str
    summary: str
    examples: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


class UsageError(Exception):
    """A command line that cannot be meant, told with the usage of the command."""


def say(message: str) -> None:
    """Tell what happened. Goes to stderr; stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def write_result(text: str) -> None:
    """Print to stdout, whatever characters it knows."""
    write_bytes(text.encode(sys.stdout.encoding, "backslashreplace") + b"\n")


def write_bytes(data: bytes) -> None:
    """Write all to stdout, which without a buffer (PYTHONUNBUFFERED) may take a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[sys.stdout.buffer.write(rest) :]


def whole_number(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"it must be a whole number of at least 1, got {text!r}")
    return int(text)


def pattern(text: str) -> str:
    """Read the name of a pattern or a regular expression, and return the latter.

    A lone word is a name that we do not know, not an expression that matches just that word.
    """
    if text.isidentifier() and text not in PATTERNS:
        known = ", ".join(PATTERNS)
        raise ArgumentTypeError(f"it must be {known} or a regular expression, got {text!r}")
    try:
        return resolve_pattern(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def add_files(parser: ArgumentParser) -> None:
    """Add FILEs of text, and what becomes of those that are not quite text."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="UTF-8 text, plain or compressed (gzip, zstd); - or none: stdin",
    )
    parser.add_argument(
        "--errors",
        choices=("strict", "replace"),
        default="strict",
        help="what becomes of bytes that are not UTF-8: an error, or U+FFFD (default: strict)",
    )


def check_can_write(out: Path) -> None:
    """Refuse a file that could not be written, before hours are spent on what it shall hold."""
    if out.is_dir():
        raise ValueError(f"--out must be a file, got the folder {out}")
    if not out.parent.is_dir():
        raise ValueError(f"--out must be in a folder that exists, got {out}; make {out.parent}")
    try:
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:  # which names the temporary file
        raise OSError(error.errno, error.strerror, str(out)) from None


def check_can_be_folder(out: Path) -> None:
    """Refuse the name of a file where a folder is to be."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {out}")


def speed(num_bytes: int, seconds: float) -> str:
    """Return how long it took, and the megabytes of each second if their number is known."""
    rate = f", {num_bytes / 1e6 / max(seconds, 1e-9):.1f} MB/s" if num_bytes else ""
    return f"{seconds:.1f} s{rate}"
