"""The FILEs of a command line: which they are, and their text."""

import codecs
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR

from ._cli_arguments import UsageError
from ._read import Errors, is_compressed, read_blocks
from ._workers import Progress

STDIN = "-"
_BLOCK_BYTES = 2**18


def input_names(files: Sequence[str]) -> list[str]:
    """Return the names of the inputs, `-` for what is piped in.

    Raises:
        UsageError: if there is none, or stdin is named twice.
        OSError: if a file is missing, before any work is done.
        ValueError: if one is a folder.
    """
    if not files:
        if sys.stdin.isatty():
            raise UsageError("name a FILE, or pipe something in")
        return [STDIN]
    if files.count(STDIN) > 1:
        raise UsageError(f"{STDIN} (stdin) can be read only once")
    for name in files:
        if name != STDIN:
            mode = Path(name).stat().st_mode
            if S_ISDIR(mode):
                raise ValueError(f"{name} is a folder; name the files in it, as in {name}/*")
    return list(files)


def total_bytes(names: Sequence[str]) -> int:
    """Return the bytes of text in all inputs, or 0 where only reading them will tell."""
    if any(name == STDIN or not Path(name).is_file() or is_compressed(name) for name in names):
        return 0
    return sum(Path(name).stat().st_size for name in names)


def read_inputs(
    names: Sequence[str], *, errors: Errors, progress: Progress
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield each input with its blocks, and tell of them as they are read."""
    total, done = total_bytes(names), 0

    def counted(blocks: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal done
        for block in blocks:
            yield block
            done += len(block)
            progress("encode", done, total)

    progress("encode", 0, total)
    for name in names:
        yield name, counted(read_input(name, errors=errors))


def read_input(name: str, *, errors: Errors) -> Iterator[bytes]:
    """Yield an input block by block, each of which is UTF-8 by itself. Raises as `read_blocks`."""
    return _read_stdin(errors) if name == STDIN else read_blocks(name, errors=errors)


def _read_stdin(errors: Errors) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset = 0
    while True:
        block = sys.stdin.buffer.read(_BLOCK_BYTES)
        held_bytes = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"stdin must be UTF-8, got byte 0x{error.object[error.start]:02x} "
                f"at byte offset {offset - held_bytes + error.start}: {error.reason}"
            ) from None
        if text:
            yield text.encode()
        if not block:
            return
        offset += len(block)
