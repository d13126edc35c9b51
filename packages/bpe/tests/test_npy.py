"""Arrays written piece by piece are those that NumPy reads."""

import os
from pathlib import Path

import numpy as np
import pytest

from scratch.bpe._npy import NpyWriter, id_type

DTYPES = pytest.mark.parametrize("dtype", [np.uint16, np.uint32])


def numbers(size: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(0).integers(np.iinfo(dtype).max, size=size, dtype=dtype)


@DTYPES
@pytest.mark.parametrize("size", [0, 1, 2, 1000, 10**6])
@pytest.mark.parametrize("pieces", [1, 7])
def test_numpy_reads_what_was_written(tmp_path: Path, dtype: type, size: int, pieces: int) -> None:
    values = numbers(size, dtype)
    with NpyWriter(tmp_path / "ids.npy", dtype) as file:
        for piece in np.array_split(values, pieces):
            file.write(piece)
    assert file.size == size
    for mode in (None, "r"):
        found = np.load(tmp_path / "ids.npy", mmap_mode=mode)
        assert found.dtype == dtype
        assert found.shape == (size,)
        assert (found == values).all()
    assert list(tmp_path.iterdir()) == [tmp_path / "ids.npy"]


@DTYPES
def test_the_file_is_that_of_numpy_save(tmp_path: Path, dtype: type) -> None:
    values = numbers(1000, dtype)
    np.save(tmp_path / "expected.npy", values)
    with NpyWriter(tmp_path / "ids.npy", dtype) as file:
        file.write(values)
    assert (tmp_path / "ids.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def test_nothing_written_is_an_empty_array(tmp_path: Path) -> None:
    with NpyWriter(tmp_path / "ids.npy", np.uint16):
        pass
    assert np.load(tmp_path / "ids.npy", mmap_mode="r").shape == (0,)


def test_values_of_another_type_or_layout_are_converted(tmp_path: Path) -> None:
    values = np.arange(100, dtype=">i8")
    with NpyWriter(tmp_path / "ids.npy", np.uint16) as file:
        for piece in (values, values[::2], values.astype(np.uint16)[::-1]):
            file.write(piece)
    expected = [*range(100), *range(0, 100, 2), *range(99, -1, -1)]
    assert np.load(tmp_path / "ids.npy").tolist() == expected


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_exception_nothing_is_left_and_an_old_file_stays(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "ids.npy"

    def fail() -> None:
        with NpyWriter(path, np.uint16) as file:
            file.write(numbers(10**5, np.uint16))
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with pytest.raises(error):
        fail()
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_until_the_end_the_old_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    path.write_bytes(b"old")
    with NpyWriter(path, np.uint16) as file:
        file.write(numbers(10**5, np.uint16))
        assert path.read_bytes() == b"old"
    assert len(np.load(path)) == 10**5


def test_a_disk_that_is_full_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), NpyWriter(tmp_path / "ids.npy", np.uint16):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_flushed_to_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[dict[str, list[int]]] = []

    def fsync(descriptor: int) -> None:
        flushed.append({path.name[:9]: np.load(path).tolist() for path in tmp_path.iterdir()})

    monkeypatch.setattr(os, "fsync", fsync)
    with NpyWriter(tmp_path / "ids.npy", np.uint16) as file:
        file.write(np.arange(5))
    assert flushed == [{".ids.npy.": [0, 1, 2, 3, 4]}]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "ids.npy"
    link.symlink_to(tmp_path / "disk" / "target.npy")
    for size in (3, 5):  # at first the link leads nowhere
        with NpyWriter(link, np.uint16) as file:
            file.write(numbers(size, np.uint16))
        assert link.is_symlink()
        assert len(np.load(tmp_path / "disk" / "target.npy")) == size
    assert len(list(tmp_path.rglob("*"))) == 3


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), NpyWriter(tmp_path / "nowhere" / "ids.npy", np.uint16):
        pass


def test_ids_take_two_bytes_while_they_fit() -> None:
    assert [id_type(size) for size in (257, 2**16)] == [np.uint16] * 2
    assert [id_type(size) for size in (2**16 + 1, 2**31)] == [np.uint32] * 2
