"""What the trainings of a sweep have come to, read from the files of their runs."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..runs.figures import Figures, read_figures
from ..runs.run_files import Record, RunFiles
from .sweep_plan import Training

_TAIL_BYTES = 2**14
_ORDER = ("finished", "stopped", "running", "new", "diverged", "failed")


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a training stands and how good it is; `failure` is why its process failed, if it did."""

    training: Training
    path: Path
    figures: Figures
    failure: str = ""

    @property
    def status(self) -> str:
        """How the run stands; a process that failed, except by diverging, has failed it."""
        failed = self.failure and self.figures.status != "diverged"
        return "failed" if failed else self.figures.status

    @property
    def reason(self) -> str:
        return self.failure if self.status == "failed" and self.failure else self.figures.reason

    @property
    def loss(self) -> float:
        """The held-out loss; where nothing is held out, the last."""
        figures = self.figures
        known = figures.loss if figures.val_loss is None else figures.val_loss
        return math.inf if known is None else known

    @property
    def rank(self) -> tuple[int, float]:
        """What trainings are ranked by: bits per byte, which compare across tokenizers, or a loss.

        What has no held-out text comes after what has: its loss is that of other text.
        """
        figures = self.figures
        if figures.val_bits_per_byte is not None:
            return 0, figures.val_bits_per_byte
        return (2 if figures.val_loss is None else 1), self.loss


def read_result(training: Training, path: Path, failure: str = "") -> Result:
    begun = (path / "config.toml").is_file()
    figures = read_figures(RunFiles(path)) if begun else Figures(status="new", reason="")
    return Result(training=training, path=path, figures=figures, failure=failure)


def ranked(results: Sequence[Result]) -> list[Result]:
    """Return the results, the best first; what did not finish comes last."""
    return sorted(results, key=lambda result: (_ORDER.index(result.status), result.rank))


@dataclass(frozen=True, kw_only=True)
class Best:
    """The settings that did best: by the mean over seeds where there are several.

    Attributes:
        result: the best training with these settings.
        mean: of the losses.
        spread: their standard deviation, `None` for a single training.
        trainings: how many have these settings, up to the seed.
    """

    result: Result
    mean: float
    spread: float | None
    trainings: int


def find_best(results: Sequence[Result]) -> Best | None:
    """Return the best settings of those whose trainings have finished.

    A seed that was lucky says nothing about settings, so those that differ in nothing else count
    together, and those that diverged with any seed only where there are no others.
    """
    groups: dict[str, list[Result]] = {}
    diverged: set[str] = set()
    for result in ranked(results):
        settings = {k: v for k, v in result.training.settings.items() if k != "seed"}
        key = json.dumps(settings, sort_keys=True)
        if result.status == "finished" and math.isfinite(result.loss):
            groups.setdefault(key, []).append(result)
        elif result.status == "diverged":
            diverged.add(key)
    if not groups:
        return None
    steady = [group for key, group in groups.items() if key not in diverged]
    candidates = steady or groups.values()
    group = min(candidates, key=_mean_rank)
    losses = [result.loss for result in group]
    return Best(
        result=group[0],
        mean=fmean(losses),
        spread=stdev(losses) if len(losses) > 1 else None,
        trainings=len(group),
    )


def _mean_rank(group: Sequence[Result]) -> tuple[int, float]:
    ranks = [result.rank for result in group]
    return max(kind for kind, _ in ranks), fmean(value for _, value in ranks)


def newest_update(path: Path) -> Record | None:
    """Return the last update in the journal of a run that is at work, reading its end only."""
    try:
        with (path / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]  # what follows the last line end is torn
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            record: Any = json.loads(line)
        except ValueError:  # begins before what was read
            return None
        if "loss" in record:
            return record
    return None


def share_done(training: Training, record: Record) -> float:
    """Return how much of a training is done after an update, from 0 to 1."""
    settings = training.settings
    for done, length in (("step", "steps"), ("tokens", "train_tokens")):
        if settings[length] is not None:
            return min(1.0, record[done] / settings[length])
    return min(1.0, record["seconds"] / settings["train_seconds"])
