"""Text files as blocks of checked UTF-8: plain, gzip or zstd, all of a file or a part of it.

Compression is told by the first bytes, which no UTF-8 text begins with.
"""

import codecs
import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from os import fspath
from pathlib import Path
from typing import IO, Any, Literal, cast

from ._stream import StrPath

Errors = Literal["strict", "replace"]

BLOCK_BYTES = 2**18

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_PIECE_BYTES = 2**10  # which can become 32 MB


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
            or gets shorter while it is read; if `block_bytes` is less than 1, or `stop` before
            `start`.
        ImportError: if it is a zstd file, and the extra is missing that reads it.
        OSError: if it cannot be read.
    """
    check_errors(errors)
    if block_bytes < 1:
        raise ValueError(f"block_bytes must be at least 1, got {block_bytes}")
    if start < 0 or (stop is not None and stop < start):
        raise ValueError(f"start and stop must be 0 <= start <= stop, got {start} and {stop}")
    name = fspath(path)
    offset = start  # of `held`
    held = b""
    with Path(path).open("rb") as file, _uncompressed(file, name) as (source, compression):
        about = os.fstat(file.fileno())
        if compression is None and stop is None and stat.S_ISREG(about.st_mode):
            stop = about.st_size or None  # files that are made up while they are read have size 0
        if start:
            source.seek(start)
        position = start
        while stop is None or position < stop:
            most = block_bytes if stop is None else min(block_bytes, stop - position)
            block = _read(source.read, most, name, compression)
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
    try:
        text, size = codecs.utf_8_decode(data, errors, final)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} must be UTF-8, got byte 0x{data[error.start]:02x} "
            f"at byte offset {offset + error.start}: {error.reason}"
        ) from None
    return (data[:size] if errors == "strict" else text.encode()), data[size:]


@contextmanager
def _uncompressed(file: io.BufferedReader, name: str) -> Generator[tuple[IO[bytes], str | None]]:
    begin = file.peek(4)
    if begin.startswith(_GZIP):
        with gzip.GzipFile(fileobj=file) as source:
            yield cast("IO[bytes]", source), "gzip"
    elif begin.startswith(_ZSTD):
        with _zstd_reader(file, name) as source:
            yield source, "zstd"
    else:
        yield file, None


def _zstd_reader(file: io.BufferedReader, name: str) -> IO[bytes]:
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            f"{name} is compressed with zstd, which takes an extra to read: "
            'pip install "scratch-bpe[zstd]"'
        ) from None
    return io.BufferedReader(_ZstdFrames(file, zstandard.ZstdDecompressor()))  # pyright: ignore


class _ZstdFrames(io.RawIOBase):
    """What is in the frames of a zstd file, one after another.

    The readers of `zstandard` itself take the end of the file for the end of a frame.
    """

    def __init__(self, file: io.BufferedReader, decompressor: Any) -> None:
        self._file, self._decompressor = file, decompressor
        self._frame: Any = None
        self._compressed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._compressed = self._compressed or self._file.read(_ZSTD_PIECE_BYTES)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("its last frame is cut off")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _read(read: Callable[[int], bytes], size: int, name: str, compression: str | None) -> bytes:
    try:
        return read(size)
    except Exception as error:
        is_broken = isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile))
        if is_broken or type(error).__name__ == "ZstdError":
            raise ValueError(f"{name} must be a whole {compression} file: {error}") from None
        raise
