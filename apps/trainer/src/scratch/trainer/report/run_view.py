"""Runs as a report shows them: read once, and put in the shape of the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..fields import flat
from ..runs.figures import Figures, read_figures, run_names, samples_in
from ..runs.run_files import Record, RunFiles
from .comparison import seed_groups
from .curves import learning_curves

# Lines are told apart by so many colours, each of them drawn in so many ways.
_COLOURS, _DASHES = 7, 6
_MOST_SAMPLES = 12


@dataclass(frozen=True)
class RunView:
    """A run as the page shows it. Runs of one group differ in nothing but the seed."""

    name: str
    group: int
    colour: int
    dash: int
    figures: Figures
    settings: dict[str, Any]
    environment: dict[str, Any]
    curves: dict[str, Any]
    samples: list[Record]


def view_runs(paths: Sequence[Path]) -> list[RunView]:
    """Read runs, one after another: of a journal only what is shown stays in memory.

    A group has a colour, and each of its runs a kind of line.
    """
    names = run_names(paths)
    settings = [flat(RunFiles(path).settings().model_dump(mode="json")) for path in paths]
    groups = seed_groups(settings)
    most = max(map(len, groups))
    views: dict[int, RunView] = {}
    for place, members in enumerate(groups):
        for number, position in enumerate(members):
            run = RunFiles(paths[position])
            views[position] = RunView(
                name=names[position],
                group=place,
                colour=place % _COLOURS,
                dash=(place // _COLOURS * most + number) % _DASHES,
                figures=read_figures(run),
                settings=settings[position],
                environment=flat(run.environment()),
                curves=learning_curves(run.journal),
                samples=_some(samples_in(run.journal)),
            )
    return [views[position] for position in range(len(paths))]


def _some(samples: list[Record]) -> list[Record]:
    """Return the newest sample and others before it, evenly apart."""
    if len(samples) <= _MOST_SAMPLES:
        return samples
    apart = (len(samples) - 1) / (_MOST_SAMPLES - 1)
    return [samples[round(number * apart)] for number in range(_MOST_SAMPLES)]
