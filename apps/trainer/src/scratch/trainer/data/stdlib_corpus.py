"""A real corpus that is on every machine already: the sources of the Python standard library."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_HELD_OUT_ONE_IN = 20


def stdlib_sources(root: Path | None = None) -> tuple[list[bytes], list[bytes]]:
    """Return the `.py` files of the running interpreter as `(training files, held-out files)`.

    Tests and installed packages are left out, and so are files that are empty or not UTF-8. One
    file in twenty is held out, by a hash of its path below `root`, so always the same ones.

    Raises:
        ValueError: if there are too few files to hold one out.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    train: list[bytes] = []
    held_out: list[bytes] = []
    for path in _python_files(root):
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if content:
            name = path.relative_to(root).as_posix()
            (held_out if _is_held_out(name) else train).append(content)
    if not train or not held_out:
        raise ValueError(
            f"{root} must hold the sources of the standard library, got {len(train)} files to "
            f"train on and {len(held_out)} to hold out; is this an interpreter without sources?"
        )
    return train, held_out


def _python_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if not _LEFT_OUT.intersection(path.relative_to(root).parts[:-1]):
            yield path


def _is_held_out(name: str) -> bool:
    digest = hashlib.md5(name.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") % _HELD_OUT_ONE_IN == 0
