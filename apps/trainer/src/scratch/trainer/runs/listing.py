"""`trainer runs`: the runs in a directory, how far they are and how good."""

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..commands import RunsSettings
from ..watching.units import ago, clock, decimals, printable, short
from .figures import Figures, read_figures, run_names
from .run_files import RunFiles, find_runs

_STYLES = {"running": "cyan", "diverged": "red", "failed": "red"}


@dataclass(frozen=True)
class ListedRun:
    """A run of the list; of one that cannot be read, `figures` is the reason."""

    name: str
    path: Path
    written: float
    figures: Figures | str


def print_runs(settings: RunsSettings) -> None:
    """Print the list, as a table or as one JSON object.

    Raises:
        ValueError: if what is named is a file.
    """
    if settings.directory.is_file():
        raise ValueError(f"{settings.directory} must be a directory, got a file")
    runs = list_runs(settings.directory)
    if settings.json_output:
        print(json.dumps({"runs": [_as_json(run) for run in runs]}))
    elif runs:
        _print_table(runs)
    else:
        print(
            f"no runs in {settings.directory}; make one with: "
            f"trainer train --data DATA --out {settings.directory / 'NAME'} --steps N"
        )


def list_runs(directory: Path) -> list[ListedRun]:
    """Return the runs below a directory by name, those that cannot be read with the reason."""
    listed: list[ListedRun] = []
    paths = find_runs(directory)
    for path in paths:
        inside = path.relative_to(directory).as_posix()
        name = run_names([path])[0] if path == directory else printable(inside)
        run = RunFiles(path)
        try:
            figures: Figures | str = read_figures(run)
        except (ValueError, OSError) as error:
            figures = str(error)
        listed.append(ListedRun(name, path, run.written(), figures))
    return listed


def _as_json(run: ListedRun) -> dict[str, Any]:
    figures = (
        {"status": "unreadable", "reason": run.figures}
        if isinstance(run.figures, str)
        else asdict(run.figures)
    )
    written = datetime.fromtimestamp(run.written, UTC).isoformat(timespec="seconds")
    return {"name": run.name, "path": str(run.path), **figures, "written": written}


def _print_table(runs: list[ListedRun]) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("run", overflow="fold", ratio=1, min_width=12)
    table.add_column("status", no_wrap=True)
    for title in ("updates", "tokens", "loss", "held-out", "best", "time", "written"):
        table.add_column(title, justify="right", no_wrap=True)
    now = time.time()
    for run in runs:
        table.add_row(Text(run.name), *_cells(run.figures), ago(now - run.written))
    console = Console(soft_wrap=False, highlight=False)
    console.print(table)
    for run in runs:
        reason = run.figures if isinstance(run.figures, str) else run.figures.reason
        if reason:
            console.print(Text(f"{run.name}: {reason}"), soft_wrap=True)


def _cells(figures: Figures | str) -> list[Text | str]:
    if isinstance(figures, str):
        return [Text("unreadable", "red"), "", "", "", "", "", ""]
    return [
        Text(figures.status, _STYLES.get(figures.status, "")),
        _how_far(figures),
        short(figures.tokens),
        _loss(figures.loss),
        _loss(figures.val_loss),
        _loss(figures.best_val_loss),
        clock(figures.seconds),
    ]


def _how_far(figures: Figures) -> str:
    if figures.total_steps is not None:
        return f"{short(figures.step)}/{short(figures.total_steps)}"
    if figures.share is not None:
        return f"{short(figures.step)} {figures.share:.0%}"
    return short(figures.step)


def _loss(value: float | None) -> str:
    return "" if value is None else decimals(value, 3)
