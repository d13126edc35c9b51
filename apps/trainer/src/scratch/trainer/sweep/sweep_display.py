"""What a sweep shows: meanwhile the trainings at work, at the end a table of all."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..watching.live import WhileWorking, can_draw
from ..watching.units import short
from .sweep_plan import Training
from .sweep_results import Result, newest_update, ranked, share_done

_COLORS = {"finished": "green", "diverged": "yellow", "failed": "red"}
_REFRESH_SECONDS = 1.0


class AtWork(WhileWorking):
    """A live table of the trainings at work, on a terminal; elsewhere nothing."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._trainings: Sequence[Training] = ()
        live = Live(
            console=Console(stderr=True),
            get_renderable=self._table,
            refresh_per_second=1 / _REFRESH_SECONDS,
            transient=True,
        )
        super().__init__(live if can_draw() else None)

    def show(self, trainings: Sequence[Training]) -> None:
        self._trainings = trainings

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for training in self._trainings:
            record = newest_update(self._out / training.name)
            if record is None:
                table.add_row(training.name, "", "starting")
                continue
            loss = record["loss"]
            table.add_row(
                training.name,
                f"{share_done(training, record):.0%}",
                f"step {record['step']:,}",
                "" if loss is None else f"loss {loss:.3f}",
                f"{record['tokens'] / max(record['seconds'], 1e-9):,.0f} tokens/s",
            )
        return table


def print_results(results: Sequence[Result]) -> None:
    """Print all trainings, the best first, to stdout."""
    settings = list(dict.fromkeys(key for r in results for key in r.training.values))
    held_out = any(result.figures.val_loss is not None for result in results)
    in_bytes = any(result.figures.val_bits_per_byte is not None for result in results)
    table = Table()
    for title in _titles(settings):
        table.add_column(title, overflow="fold")
    # Where it is narrow, settings may be broken into lines, figures must not be cut.
    loss = "held-out\nloss" if held_out else "training\nloss"
    for title in (loss, "bits/byte" if in_bytes else "perplexity", "tokens/s"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for result in ranked(results):
        figures = result.figures
        color = _COLORS.get(result.status, "default")
        table.add_row(
            *(_told(result.training, setting) for setting in settings),
            _number(figures.val_loss if held_out else figures.loss, ".4f"),
            _number(figures.val_bits_per_byte, ".3f")
            if in_bytes
            else _number(figures.val_perplexity, ".4g"),
            "" if figures.tokens_per_second is None else short(figures.tokens_per_second),
            f"[{color}]{result.status}[/]",
        )
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    for result in results:
        if result.reason and result.status != "finished":
            text = f"{result.training.name}: {result.status}: {result.reason}"
            console.print(text, markup=False, soft_wrap=True)


def _titles(settings: Sequence[str]) -> list[str]:
    """Return the last parts of the names, or whole ones where those are the same."""
    last = [setting.rpartition(".")[2] for setting in settings]
    return [
        short if last.count(short) == 1 else setting
        for short, setting in zip(last, settings, strict=True)
    ]


def _told(training: Training, setting: str) -> str:
    """Return the value as it was written, or that which a training has anyway."""
    written = training.values.get(setting)
    return str(training.settings.get(setting, "")) if written is None else written


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
