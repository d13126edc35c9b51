"""The figures of a run: what one wants to know of it in a line."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import TrainSettings
from ..watching.units import printable
from .run_files import Record, RunFiles, Status


@dataclass(frozen=True)
class Figures:
    """How far a run is and how good; None stands for what it does not know, or is not finite.

    `share` is how much of the training is done, from 0 to 1. Losses are in nats a token; `seconds`
    are of training, pauses left out. What begins with `val_` is of the last evaluation.
    """

    status: Status
    reason: str
    step: int = 0
    total_steps: int | None = None
    share: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    loss: float | None = None
    val_loss: float | None = None
    val_perplexity: float | None = None
    val_bits_per_byte: float | None = None
    best_val_loss: float | None = None
    best_step: int | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    parameters: int | None = None


def read_figures(run: RunFiles) -> Figures:
    """Return the figures of a run.

    Raises:
        ValueError: if it is no run, or one of its files is damaged.
    """
    settings, state = run.settings(), run.state()
    updates, evaluations = updates_in(run.journal), evaluations_in(run.journal)
    last = updates[-1] if updates else {"step": 0}
    held_out = evaluations[-1] if evaluations else Record()
    best = min(evaluations, key=_val_loss, default=Record())
    step, seconds = last["step"], number(last, "seconds") or 0.0
    tokens = int(number(last, "tokens") or 0)
    total_steps = planned_steps(settings)
    return Figures(
        status=state.status,
        reason=state.reason,
        step=step,
        total_steps=total_steps,
        share=_share(step / total_steps if total_steps else None, seconds, settings),
        tokens=tokens,
        seconds=seconds,
        loss=number(last, "loss"),
        val_loss=number(held_out, "val_loss"),
        val_perplexity=number(held_out, "val_perplexity"),
        val_bits_per_byte=number(held_out, "val_bits_per_byte"),
        best_val_loss=number(best, "val_loss"),
        best_step=best["step"] if number(best, "val_loss") is not None else None,
        tokens_per_second=tokens / seconds if seconds > 0 else None,
        mfu=_mean(number(record, "mfu") for record in updates),
        parameters=run.parameters(),
    )


def number(record: Record, key: str) -> float | None:
    """Return a value of a line of the journal, or None where it has none that is finite."""
    value = record.get(key)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def updates_in(journal: Iterable[Record]) -> list[Record]:
    return [record for record in journal if "loss" in record]


def evaluations_in(journal: Iterable[Record]) -> list[Record]:
    return [record for record in journal if "val_loss" in record]


def samples_in(journal: Iterable[Record]) -> list[Record]:
    return [record for record in journal if isinstance(record.get("sample"), str)]


def planned_steps(settings: TrainSettings) -> int | None:
    """Return how many updates a run is to make, where that is not left to a clock."""
    if settings.train_tokens is not None:
        return -(-settings.train_tokens // (settings.batch_size * settings.model.context_length))
    return settings.steps


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return what to call runs: their paths, without the folders that all of them are in."""
    whole = [path.resolve() for path in paths]
    parents = [path.parts[:-1] for path in whole]
    shared = 0
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    return [printable("/".join(path.parts[shared:])) for path in whole]


def _share(of_steps: float | None, seconds: float, settings: TrainSettings) -> float | None:
    if of_steps is None and settings.train_seconds is not None:
        of_steps = seconds / settings.train_seconds
    return None if of_steps is None else min(of_steps, 1.0)


def _val_loss(record: Record) -> float:
    value = number(record, "val_loss")
    return math.inf if value is None else value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
