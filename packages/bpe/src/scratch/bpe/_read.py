"""Text files as blocks of checked UTF-8: plain, gzip or zstd, all of a file or a part of it.

Compression is told by the first bytes, which no UTF-8 text begins with.
"""

import gzip
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from io import BufferedReader
from os import fspath
from pathlib import Path
from typing import IO, Any, Literal, cast

from ._stream import StrPath

Errors = Literal["strict", "replace"]

BLOCK_BYTES = 2**21

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def read_blocks(
    path: StrPath,
    *,
    errors: Errors = "strict",
    start: int = 0,
    stop: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[bytes]:
    """Yield a file block by block, each of which is UTF-8 by itself; line ends and marks stay.

    Args:
        path: plain text, or text compressed with gzip or zstd.
        errors: "strict" refuses bytes that are not UTF-8, "replace" puts U+FFFD in their place.
        start, stop: the part of a plain file, in bytes, by default all of it.
        block_bytes: the most to read at a time.

    Raises:
        ValueError: if the file is not UTF-8, naming the file and the offset in bytes, is cut off,
            or gets shorter while it is read.
        ImportError: if it is a zstd file, and the extra is missing that reads it.
        OSError: if it cannot be read.
    """
    check_errors(errors)
    name = fspath(path)
    offset = start  # of `held`
    held = b""
    with Path(path).open("rb") as file, _uncompressed(file, name) as (source, is_plain):
        mode = os.fstat(file.fileno())
        if is_plain and stop is None and stat.S_ISREG(mode.st_mode):
            stop = mode.st_size
        if start:
            source.seek(start)
        position = start
        while stop is None or position < stop:
            most = block_bytes if stop is None else min(block_bytes, stop - position)
            block = _read(source.read, most, name)
            if not block:
                break
            position += len(block)
            checked, rest = _checked(held + block, name, offset, errors, final=False)
            offset += len(held) + len(block) - len(rest)
            held = rest
            if checked:
                yield checked
        if stop is not None and position < stop:
            raise ValueError(
                f"{name} must not get shorter while it is read, "
                f"got its end at byte offset {position} instead of {stop}"
            )
        if held:
            yield _checked(held, name, offset, errors, final=True)[0]


def is_compressed(path: StrPath) -> bool:
    """Return whether a file is compressed, so that it cannot be read from the middle."""
    with Path(path).open("rb") as file:
        return file.read(4).startswith((_GZIP, _ZSTD))


def check_errors(errors: str) -> None:
    """Refuse anything but "strict" and "replace"."""
    if errors not in ("strict", "replace"):
        raise ValueError(f'errors must be "strict" or "replace", got {errors!r}')


def _checked(
    data: bytes, name: str, offset: int, errors: Errors, *, final: bool
) -> tuple[bytes, bytes]:
    """Return the UTF-8 in `data`, and a last character that is not complete."""
    if data.isascii():
        return data, b""
    end = len(data)
    if not final:
        end = _end_of_last_character(data)
    try:
        data[:end].decode()
    except UnicodeDecodeError as error:
        if errors == "replace":
            return data[:end].decode(errors="replace").encode(), data[end:]
        raise ValueError(
            f"{name} must be UTF-8, got byte 0x{data[error.start]:02x} "
            f"at byte offset {offset + error.start}: {error.reason}"
        ) from None
    return data[:end], data[end:]


def _end_of_last_character(data: bytes) -> int:
    """Return where a last character begins that may go on, else the end."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if length > back else len(data)
        if byte < 0x80:
            break
    return len(data)


@contextmanager
def _uncompressed(file: BufferedReader, name: str) -> Generator[tuple[IO[bytes], bool]]:
    begin = file.peek(4)
    if begin.startswith(_GZIP):
        with gzip.GzipFile(fileobj=file) as source:
            yield cast("IO[bytes]", source), False
    elif begin.startswith(_ZSTD):
        with _zstd_reader(file, name) as source:
            yield source, False
    else:
        yield file, True


def _zstd_reader(file: BufferedReader, name: str) -> IO[bytes]:
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            f"{name} is compressed with zstd, which takes an extra to read: "
            'pip install "scratch-bpe[zstd]"'
        ) from None
    decompressor: Any = zstandard.ZstdDecompressor()  # pyright: ignore
    return decompressor.stream_reader(file, read_across_frames=True)  # pyright: ignore


def _read(read: Callable[[int], bytes], size: int, name: str) -> bytes:
    try:
        return read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name} must be a whole gzip file: {error}") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise ValueError(f"{name} must be a whole zstd file: {error}") from None
        raise
