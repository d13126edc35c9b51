"""The corpus of the quickstart: real sources, split by their names."""

import hashlib
import shutil
import sysconfig
from pathlib import Path

import pytest

from scratch.trainer.data.stdlib_corpus import stdlib_sources


def held_out(name: str) -> bool:
    return int(hashlib.md5(name.encode()).hexdigest(), 16) % 20 == 0


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a directory of 99 modules, each with its own name inside."""
    for number in range(99):
        package = tmp_path / "lib" / f"package{number % 3}"
        package.mkdir(parents=True, exist_ok=True)
        name = f"package{number % 3}/module{number}.py"
        (tmp_path / "lib" / name).write_text(f"# {name}\n")
    return tmp_path / "lib"


def names(sources: list[bytes]) -> list[str]:
    return [source.decode().removeprefix("# ").strip() for source in sources]


def test_files_are_held_out_by_the_hash_of_their_name(library: Path) -> None:
    train, out = stdlib_sources(library)
    everything = sorted(path.relative_to(library).as_posix() for path in library.rglob("*.py"))
    assert names(train) == [name for name in everything if not held_out(name)]
    assert names(out) == [name for name in everything if held_out(name)]
    numbers = [int(name.split("module")[1].removesuffix(".py")) for name in names(out)]
    assert sorted(numbers) == [12, 15, 19, 38, 39, 43, 45, 64, 67, 69]  # forever


def test_it_does_not_matter_where_the_library_lies(library: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(library, tmp_path / "other" / "place")
    assert stdlib_sources(moved) == stdlib_sources(library)


@pytest.mark.parametrize(
    "name",
    [
        "test/test_all.py",
        "package0/tests/helper.py",
        "idlelib/idle_test/x.py",
        "site-packages/numpy/core.py",
        "dist-packages/x.py",
        "__pycache__/x.py",
        "package0/data.txt",
        "package0/module.pyc",
    ],
)
def test_tests_and_installed_packages_are_left_out(library: Path, name: str) -> None:
    before = stdlib_sources(library)
    (library / name).parent.mkdir(parents=True, exist_ok=True)
    (library / name).write_text("other = 1\n")
    assert stdlib_sources(library) == before


def test_a_module_called_test_is_a_source(library: Path) -> None:
    (library / "test.py").write_text("# test.py\n")
    train, out = stdlib_sources(library)
    assert "test.py" in names(train) + names(out)


@pytest.mark.parametrize("content", [b"", b"name = '\xe9'  # coding: latin-1\n"])
def test_files_that_are_empty_or_not_utf8_are_left_out(library: Path, content: bytes) -> None:
    before = stdlib_sources(library)
    (library / "odd.py").write_bytes(content)
    assert stdlib_sources(library) == before


def test_line_ends_stay_as_they_are(library: Path) -> None:
    (library / "dos.py").write_bytes(b"a = 1\r\n")
    train, out = stdlib_sources(library)
    assert b"a = 1\r\n" in train + out


def test_too_few_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "only.py").write_text("a = 1\n")
    message = "must hold the sources of the standard library, got 1 files to train on and 0 to hold"
    with pytest.raises(ValueError, match=message):
        stdlib_sources(tmp_path)


def test_the_running_interpreter_has_a_library_worth_learning() -> None:
    train, out = stdlib_sources()
    library = Path(sysconfig.get_path("stdlib"))
    assert library.joinpath("ast.py").read_bytes() in train + out
    assert sum(map(len, train)) > 5_000_000
    assert 0.02 < sum(map(len, out)) / sum(map(len, train + out)) < 0.1
