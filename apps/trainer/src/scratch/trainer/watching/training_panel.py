"""How a training looks: in a line, and as a panel that fits any width."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.box import ROUNDED
from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .sparkline import Course, sparkline
from .units import clock

_CURVE_ROWS = 3
_CELL_COLUMNS = 20
_MOST_COLUMNS = 120
_UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class State:
    """How far a training is: lines of the journal, and what is left."""

    fraction: float
    record: Mapping[str, Any]
    seconds_left: float | None
    evaluation: Mapping[str, Any] | None

    @property
    def share(self) -> str:
        return f"{min(self.fraction, 1.0):4.0%}"

    @property
    def left(self) -> str:
        return "" if self.seconds_left is None else f"{clock(self.seconds_left)} left"


def training_line(description: str, state: State) -> str:
    """Return all that one wants to know, for a log."""
    record = state.record
    parts = [
        f"{description} {state.share}",
        f"step {record['step']:,}",
        f"loss {_number(record.get('loss'), '.3f')}",
        f"lr {_number(record.get('lr'), '.2e')}",
        f"grad norm {_number(record.get('grad_norm'), '.3g')}",
    ]
    if state.evaluation is not None:
        parts.append(f"held-out {_number(state.evaluation.get('val_loss'), '.3f')}")
    if record.get("tokens_per_second") is not None:
        parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if record.get("mfu") is not None:
        parts.append(f"MFU {record['mfu']:.0%}")
    if state.left:
        parts.append(state.left)
    return "  ".join(parts)


def training_panel(description: str, state: State, losses: Course, *, columns: int) -> Panel:
    """Return a panel for a terminal of so many columns, of the same height whatever happens."""
    columns = min(columns, _MOST_COLUMNS)
    inner = max(1, columns - 4)  # without the frame
    return Panel(
        Group(_bar(state), *_curve(losses, inner), _cells(state, inner)),
        title=description,
        title_align="left",
        border_style="dim",
        box=ROUNDED,
        width=columns,
    )


def _bar(state: State) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(ratio=1)
    for _ in range(3):
        grid.add_column(no_wrap=True, justify="right")
    grid.add_row(
        ProgressBar(total=1.0, completed=min(state.fraction, 1.0)),
        Text(state.share.strip(), style="bold"),
        f"step {state.record['step']:,}",
        state.left,
    )
    return grid


def _curve(losses: Course, columns: int) -> list[Text]:
    labels = 7
    means = losses.means(max(1, columns - labels))
    lines, low, high = sparkline(means, rows=_CURVE_ROWS)
    marks = [""] * _CURVE_ROWS
    if means:
        marks[0], marks[-1] = f"{high:.2f}", f"{low:.2f}"
    return [
        Text.assemble((f"{mark:>{labels - 1}} ", "dim"), (line, "cyan"), no_wrap=True)
        for mark, line in zip(marks, lines, strict=True)
    ]


def _cells(state: State, columns: int) -> Table:
    record, evaluation = state.record, state.evaluation or {}
    cells = [
        ("loss", _number(record.get("loss"), ".3f")),
        ("held-out", _number(evaluation.get("val_loss"), ".3f")),
        ("tokens/s", _number(record.get("tokens_per_second"), ",.0f")),
        ("lr", _number(record.get("lr"), ".2e")),
        ("grad norm", _number(record.get("grad_norm"), ".3g")),
    ]
    if record.get("mfu") is not None:
        cells.append(("MFU", _number(record["mfu"], ".1%")))
    if record.get("memory_bytes") is not None:
        cells.append(("memory", f"{record['memory_bytes'] / 1e9:.2f} GB"))
    in_a_row = max(1, columns // _CELL_COLUMNS)
    grid = Table.grid(expand=True)
    for _ in range(in_a_row):
        grid.add_column(ratio=1, no_wrap=True)
    for first in range(0, len(cells), in_a_row):
        grid.add_row(
            *(
                Text.assemble((f"{label} ", "dim"), (value, "bold"))
                for label, value in cells[first : first + in_a_row]
            )
        )
    return grid


def _number(value: float | None, form: str) -> str:
    return _UNKNOWN if value is None or not math.isfinite(value) else format(value, form)
