"""Directories that appear under their names when they are complete."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(directory: Path) -> Generator[Path]:
    """Give a directory to write into, which at the end takes the place of `directory`.

    What goes wrong meanwhile leaves everything as it was.
    """
    final = Path(os.path.realpath(directory))
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished, old = (final.with_name(f".{final.name}.{state}") for state in ("unfinished", "old"))
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        yield unfinished
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
