"""Files as blocks of UTF-8, however they are packed and wherever they are cut."""

import gzip
import io
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import zstandard

from scratch.bpe import read_blocks
from scratch.bpe._read import is_compressed

UNUSUAL = (
    "\ufeffBOM\r\nlone\rend\n\u2028\u00e9\u20ac\U0001f600\U0010ffff\ufeff\0\x1a\ud7ff end\r\n"
).encode()


def to_gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def to_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


Pack = Callable[[bytes], bytes]

PACKED = pytest.mark.parametrize("pack", [bytes, to_gzip, to_zstd], ids=["plain", "gzip", "zstd"])
COMPRESSED = pytest.mark.parametrize("pack", [to_gzip, to_zstd], ids=["gzip", "zstd"])
BLOCK_BYTES = pytest.mark.parametrize("block_bytes", [1, 2, 3, 4, 5, 7, 64, 2**21])


def read(path: Path, **options: Any) -> bytes:
    """The joined blocks, each of which must be UTF-8 by itself."""
    blocks = list(read_blocks(path, **options))
    for block in blocks:
        block.decode()
    assert all(blocks)
    return b"".join(blocks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@PACKED
@BLOCK_BYTES
def test_a_file_is_read_as_it_stands(path: Path, pack: Pack, block_bytes: int) -> None:
    path.write_bytes(pack(UNUSUAL))
    assert read(path, block_bytes=block_bytes) == UNUSUAL


@PACKED
def test_a_file_is_read_as_it_stands_by_default(path: Path, pack: Pack) -> None:
    data = b"".join(bytes(character, "utf-8") * 1000 for character in "a\u00e9\u20ac\U0001f600 ")
    path.write_bytes(pack(data * 300))
    assert read(path) == data * 300


@PACKED
def test_blocks_are_as_long_as_asked(path: Path, pack: Pack) -> None:
    path.write_bytes(pack(b"low lower " * 10_000))
    lengths = [len(block) for block in read_blocks(path, block_bytes=30_000)]
    assert lengths == [30_000] * 3 + [10_000]


@PACKED
@BLOCK_BYTES
def test_an_empty_file_has_no_blocks(path: Path, pack: Pack, block_bytes: int) -> None:
    path.write_bytes(pack(b""))
    assert read(path, block_bytes=block_bytes) == b""


@pytest.mark.parametrize("block_bytes", [1, 3, 2**21])
def test_a_part_is_what_is_between_two_bytes(path: Path, block_bytes: int) -> None:
    path.write_bytes(UNUSUAL)
    text = UNUSUAL.decode()
    ends = [len(text[:index].encode()) for index in range(len(text) + 1)]
    for number, start in enumerate(ends):
        assert read(path, start=start, block_bytes=block_bytes) == UNUSUAL[start:]
        for stop in ends[number:]:
            options = {"start": start, "stop": stop, "block_bytes": block_bytes}
            assert read(path, **options) == UNUSUAL[start:stop]


@pytest.mark.parametrize("form", [str, Path])
def test_a_path_may_be_a_string(path: Path, form: type) -> None:
    path.write_bytes(b"low")
    assert list(read_blocks(form(path))) == [b"low"]


# What is not UTF-8: a name, the bytes, and how far into them the mistake is.
NOT_UTF8 = {
    "no lead": (b"\xff", 0),
    "stray continuation": ("\u20ac\u20ac".encode() + b"\x80 low", 6),
    "latin-1": (b"ok \xe9 latin", 3),
    "cut off, 2 bytes": (b"ab\xc3", 2),
    "cut off, 3 bytes": (b"ab\xe2\x82", 2),
    "cut off, 4 bytes": (b"ab\xf0\x9f\x98", 2),
    "cut off, and more follows": (b"ab\xf0\x9f\x98\xf0\x9f\x98\x80", 2),
    "overlong, 2 bytes": (b"low \xc1\xbf", 4),
    "overlong, 3 bytes": (b"low \xe0\x9f\xbf", 4),
    "overlong, 4 bytes": (b"low \xf0\x8f\xbf\xbf", 4),
    "surrogate": (b"abc\xed\xa0\x80", 3),
    "beyond U+10FFFF": (b"abc\xf4\x90\x80\x80", 3),
    "five bytes": (b"abc\xf8\x88\x80\x80\x80", 3),
}


@PACKED
@pytest.mark.parametrize(("data", "offset"), NOT_UTF8.values(), ids=NOT_UTF8)
def test_what_is_not_utf8_is_refused_with_file_and_offset(
    path: Path, pack: Pack, data: bytes, offset: int
) -> None:
    path.write_bytes(pack(data))
    messages: set[str] = set()
    for block_bytes in (1, 2, 3, 4, 5, 2**21):
        with pytest.raises(ValueError, match="must be UTF-8") as caught:
            read(path, block_bytes=block_bytes)
        messages.add(str(caught.value))
    (message,) = messages  # the size of the blocks changes nothing
    where = f"{path} must be UTF-8, got byte 0x{data[offset]:02x} at byte offset {offset}: "
    assert message.startswith(where)


def test_the_offset_counts_from_the_start_of_the_file(path: Path) -> None:
    path.write_bytes(b"low \xff lower")
    for block_bytes in (1, 2, 2**21):
        for start in range(5):
            with pytest.raises(ValueError, match="got byte 0xff at byte offset 4: "):
                read(path, start=start, block_bytes=block_bytes)


def test_a_part_that_ends_inside_a_character_is_refused(path: Path) -> None:
    path.write_bytes("ab\u20ac".encode())
    with pytest.raises(ValueError, match="got byte 0xe2 at byte offset 2: unexpected end"):
        read(path, stop=4)


# All that a decoder tells apart: ends of the ranges of bytes, and letters.
BYTES = bytes.fromhex("41 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")


@PACKED
def test_replacing_is_that_of_python_wherever_blocks_end(path: Path, pack: Pack) -> None:
    rng = random.Random(0)
    for data in (bytes(rng.choices(BYTES, k=20_000)), *(value for value, _ in NOT_UTF8.values())):
        path.write_bytes(pack(data))
        expected = data.decode(errors="replace").encode()
        for block_bytes in (1, 2, 3, 4, 5, 7, 1000, 2**21):
            assert read(path, errors="replace", block_bytes=block_bytes) == expected


def test_the_first_mistake_is_the_one_that_python_finds(path: Path) -> None:
    rng = random.Random(0)
    pieces = [
        *"a \u00e9\u20ac\U0001f600".encode().split(),
        *(value for value, _ in NOT_UTF8.values()),
    ]
    pieces += ["\u00e9\u20ac\U0001f600".encode()] * 30
    for _ in range(100):
        data = b"".join(rng.choices(pieces, k=8))
        path.write_bytes(data)
        try:
            expected = repr(data.decode().encode())
        except UnicodeDecodeError as error:
            expected = f"at byte offset {error.start}: {error.reason}"
        for block_bytes in (1, 2, 3, 5):
            try:
                found = repr(read(path, block_bytes=block_bytes))
            except ValueError as error:
                found = str(error)
            assert found.endswith(expected)


def test_what_comes_before_a_mistake_is_read(path: Path) -> None:
    path.write_bytes(b"low lower\xff")
    blocks = read_blocks(path, block_bytes=4)
    assert [next(blocks), next(blocks)] == [b"low ", b"lowe"]
    with pytest.raises(ValueError, match="offset 9"):
        next(blocks)


@COMPRESSED
@pytest.mark.parametrize("block_bytes", [1, 7, 2**21])
def test_compressed_files_may_be_joined(path: Path, pack: Pack, block_bytes: int) -> None:
    pieces = [UNUSUAL[:25], b"", UNUSUAL[25:], b"", b"", b"low " * 5000]
    path.write_bytes(b"".join(map(pack, pieces)))
    assert read(path, block_bytes=block_bytes) == b"".join(pieces)


def test_a_gzip_file_may_end_in_zeros_and_a_zstd_file_skip_a_frame(path: Path) -> None:
    path.write_bytes(to_gzip(b"low") + bytes(100))
    assert read(path) == b"low"
    skipped = b"\x5f\x2a\x4d\x18\x05\0\0\0other"
    path.write_bytes(to_zstd(b"low") + skipped + to_zstd(b" lower") + skipped)
    assert read(path) == b"low lower"


def test_a_zstd_stream_that_does_not_tell_its_size_is_read(path: Path) -> None:
    compressor = zstandard.ZstdCompressor().compressobj()
    data = UNUSUAL * 1000
    path.write_bytes(compressor.compress(data) + compressor.flush())
    assert read(path) == data


@COMPRESSED
def test_a_file_that_is_cut_off_is_refused_wherever(path: Path, pack: Pack) -> None:
    packed = pack(UNUSUAL + random.Random(0).randbytes(30).hex().encode())
    for size in range(4, len(packed)):
        for before in (b"", packed):
            path.write_bytes(before + packed[:size])
            with pytest.raises(ValueError, match=f"{path} must be a whole (gzip|zstd) file: "):
                read(path, block_bytes=1 if size % 10 == 0 else 2**21)


@COMPRESSED
def test_a_long_file_that_is_cut_off_is_refused(path: Path, pack: Pack) -> None:
    packed = pack(random.Random(0).randbytes(300_000).hex().encode())
    for size in (len(packed) // 3, len(packed) - 1):
        path.write_bytes(packed[:size])
        for block_bytes in (2**10, 2**21):
            with pytest.raises(ValueError, match=r"must be a whole (gzip|zstd) file"):
                read(path, block_bytes=block_bytes)


@COMPRESSED
@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_no_broken_byte_changes_what_is_read(path: Path, pack: Pack, flip: int) -> None:
    packed = pack(UNUSUAL * 2)
    harmless = 0
    for place in range(len(packed)):
        path.write_bytes(packed[:place] + bytes([packed[place] ^ flip]) + packed[place + 1 :])
        try:
            assert read(path) == UNUSUAL * 2  # as if gzip were told another time of the day
            harmless += 1
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
    assert harmless < 10


@COMPRESSED
def test_what_follows_a_compressed_file_is_refused(path: Path, pack: Pack) -> None:
    path.write_bytes(pack(UNUSUAL) + b"and more")
    with pytest.raises(ValueError, match=f"{path} must be a whole (gzip|zstd) file: "):
        read(path)


def test_without_zstandard_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path.write_bytes(to_zstd(UNUSUAL))
    with pytest.raises(ImportError, match=rf"{path} .* zstd, .*scratch-bpe\[zstd\]"):
        read(path)
    path.write_bytes(to_gzip(UNUSUAL))
    assert read(path) == UNUSUAL


@pytest.mark.parametrize("data", [b"", b"\x1f", b"\x28", b"(\xc2\xb5", b"\x1f low", b"P*M\x18 low"])
def test_text_is_not_taken_for_a_compressed_file(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert not is_compressed(path)
    assert read(path) == data


@COMPRESSED
def test_compression_is_told_by_the_first_bytes(path: Path, pack: Pack) -> None:
    path.write_bytes(pack(b""))
    assert is_compressed(path)


def test_a_file_that_gets_shorter_while_it_is_read_is_refused(path: Path) -> None:
    path.write_bytes(b"low lower " * 2**17)
    blocks = read_blocks(path, block_bytes=2**16)
    next(blocks)
    os.truncate(path, 2**18)
    where = f"{path} must not get shorter .* at byte offset {2**18} instead of {10 * 2**17}"
    with pytest.raises(ValueError, match=where):
        list(blocks)


def test_a_part_beyond_the_end_is_refused(path: Path) -> None:
    path.write_bytes(b"low lower")
    with pytest.raises(ValueError, match="got its end at byte offset 9 instead of 10"):
        read(path, start=4, stop=10)


def test_what_is_added_while_a_file_is_read_does_not_belong_to_it(path: Path) -> None:
    path.write_bytes(b"low lower " * 2**17)
    blocks = read_blocks(path, block_bytes=2**16)
    first = next(blocks)
    with path.open("ab") as file:
        file.write(b"more")
    assert first + b"".join(blocks) == b"low lower " * 2**17


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(OSError, match=str(tmp_path)):
        read(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(OSError, match="Input/output"):
        read(Path("/proc/self/mem"))


class BadDisk(io.FileIO):
    """Gives the first bytes, and no more."""

    def readinto(self, buffer: Any) -> int:
        if self.tell():
            raise OSError("Input/output error")
        return super().readinto(buffer)


@PACKED
def test_a_disk_that_fails_later_is_an_error_too(
    path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(pack(random.Random(0).randbytes(2**19).hex().encode()))
    monkeypatch.setattr(Path, "open", lambda path, _: io.BufferedReader(BadDisk(path)))
    with pytest.raises(OSError, match="Input/output error"):
        read(path)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs /proc")
def test_a_file_without_a_size_is_read_to_its_end() -> None:
    path = Path("/proc/version")
    assert path.stat().st_size == 0
    for block_bytes in (1, 2**21):
        assert read(path, block_bytes=block_bytes) == path.read_bytes() != b""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@PACKED
def test_a_pipe_is_read_to_its_end(path: Path, pack: Pack) -> None:
    data = UNUSUAL * 5000  # more than a pipe holds
    os.mkfifo(path)
    writer = Thread(target=path.write_bytes, args=(pack(data),))
    writer.start()
    try:
        assert read(path) == data
    finally:
        writer.join()


@PACKED
@pytest.mark.parametrize("ending", ["abandoned", "read", "cut off", "not UTF-8"])
def test_the_file_is_closed(
    path: Path, pack: Pack, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(UNUSUAL + (b"\xff" if ending == "not UTF-8" else b""))
    path.write_bytes(packed[:-1] if ending == "cut off" else packed)
    opened: list[Any] = []
    original = Path.open

    def remember(path: Path, mode: str) -> Any:
        opened.append(original(path, mode))
        return opened[-1]

    monkeypatch.setattr(Path, "open", remember)
    blocks = read_blocks(path, block_bytes=4)
    next(blocks)
    assert [file.closed for file in opened] == [False]
    if ending == "abandoned":
        blocks.close()  # type: ignore[attr-defined]
    elif ending == "read" or (pack is bytes and ending == "cut off"):
        list(blocks)
    else:
        with pytest.raises(ValueError, match="must be"):
            list(blocks)
    assert [file.closed for file in opened] == [True]


@pytest.mark.parametrize("errors", ["ignore", "", None])
def test_errors_that_nobody_knows_are_refused(path: Path, errors: Any) -> None:
    path.touch()
    with pytest.raises(ValueError, match=f'errors must be "strict" or "replace", got {errors!r}'):
        read(path, errors=errors)


def test_a_range_that_is_none_is_refused(path: Path) -> None:
    path.write_bytes(b"low")
    with pytest.raises(ValueError, match="0 <= start <= stop, got 2 and 1"):
        read(path, start=2, stop=1)
    with pytest.raises(ValueError, match="0 <= start <= stop, got -1 and None"):
        read(path, start=-1)
    for block_bytes in (0, -1):
        with pytest.raises(ValueError, match=f"block_bytes must be at least 1, got {block_bytes}"):
            read(path, block_bytes=block_bytes)
