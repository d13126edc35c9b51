"""Files that are either the old one or the new one, never half of one."""

import os
import secrets
from os import PathLike
from pathlib import Path


def write_atomically(path: str | PathLike[str], data: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename over it."""
    path = Path(os.path.realpath(path))  # through a symbolic link, to what it points to
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
