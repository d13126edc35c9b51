"""A file written atomically is the old one or the new one, and nothing is left beside it."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scratch.train import atomic_write, remove_directory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.txt"


def write(path: Path | str, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def fail_on(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one system call report a full disk."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)


@pytest.mark.parametrize("kind", [Path, str])
def test_a_file_appears_with_its_content(path: Path, kind: Callable[[Path], Path | str]) -> None:
    write(kind(path), b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_name_without_a_folder_means_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("notes.txt", b"here")
    assert (tmp_path / "notes.txt").read_bytes() == b"here"


def test_the_old_file_is_there_until_the_new_one_is_complete(path: Path) -> None:
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_everything_as_it_was(
    path: Path, error: type[BaseException], old: bytes | None
) -> None:
    if old is not None:
        path.write_bytes(old)
    before = {entry: entry.read_bytes() for entry in path.parent.iterdir()}

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(error):
        write_half()
    assert {entry: entry.read_bytes() for entry in path.parent.iterdir()} == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_everything_as_it_was(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"old")
    fail_on(call, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        calls.append(f"fsync of {os.fstat(descriptor).st_size if not calls else 'the folder'}")
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write(path, b"123456")
    assert calls[:2] == ["fsync of 6", "replace"]
    assert os.name != "posix" or calls[2:] == ["fsync of the folder"]


def test_two_writers_do_not_mix(path: Path) -> None:
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first" * 100)
        second.write(b"second")
    assert path.read_bytes() == b"first" * 100, "the last to finish wins"


def test_a_folder_is_not_replaced(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError, match=r"notes\.txt"):
        write(path, b"new")
    assert list(path.parent.iterdir()) == [path]
    assert path.is_dir()


def test_a_missing_folder_is_reported_as_such(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write(path.parent / "nowhere" / "notes.txt", b"new")


def test_a_directory_is_never_seen_half_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "whole"
    directory.mkdir()
    (directory / "file").touch()

    def killed(path: Path, **_: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_directory(directory)
    assert [path.name for path in tmp_path.iterdir()] == [".whole.old.tmp"]
    remove_directory(directory)
    assert list(tmp_path.iterdir()) == []
