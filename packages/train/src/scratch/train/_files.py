"""Files that are either the old one or the new one, never half of one."""

import errno
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO

StrPath = str | PathLike[str]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_write(path: StrPath) -> Generator[IO[bytes]]:
    """Open a file beside `path` to write to; on success flush it to the disk and rename it.

    If the block raises, or the machine stops, `path` stays as it was. The error of a full disk
    names it. A symbolic link stays one: what it points to is replaced.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise
    sync_directory(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory and what is in it, so that no half of it is ever there under its name.

    A process that is killed meanwhile leaves `.NAME.old.tmp` beside it. Nothing happens if there
    is none.
    """
    leaving = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(leaving, ignore_errors=True)
    if path.exists():
        path.rename(leaving)
        shutil.rmtree(leaving)


def sync_directory(path: Path) -> None:
    """Make renames in a directory last, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
