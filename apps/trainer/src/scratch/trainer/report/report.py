"""`trainer report`: one page that shows and compares runs, and needs no network."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..commands import ReportSettings
from ..runs.run_files import find_runs
from .report_page import page
from .run_view import view_runs


def write_report(settings: ReportSettings) -> None:
    """Write the page and print where it is.

    Raises:
        ValueError: if an argument is not a run and has none in it, or a run is damaged.
        OSError: if the page cannot be written; an old one stays.
    """
    if settings.out.is_dir():
        raise ValueError(f"--out must be a file, got the directory {settings.out}")
    views = view_runs(runs_below(settings.runs))
    _write_whole(settings.out, page(views))
    print(settings.out)


def runs_below(arguments: Sequence[Path]) -> list[Path]:
    """Return the runs that are meant, each once.

    Raises:
        ValueError: if an argument is not the directory of a run and has none in it.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        paths = find_runs(argument)
        if not paths:
            what = "it does not exist" if not argument.exists() else "got none"
            raise ValueError(
                f"{argument} must be the directory of a run (with a config.toml), or have runs in "
                f"it: {what}; see what there is with: trainer runs"
            )
        found |= {path.resolve(): path for path in paths}
    if not found:
        raise ValueError(
            "report needs at least one run, got none; see what there is with: trainer runs"
        )
    return list(found.values())


def _write_whole(path: Path, text: str) -> None:
    """Write a file that appears when it is complete, without torch, which atomic_write imports."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
