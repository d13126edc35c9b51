"""The curves of a run: its journal made short enough to draw, with nothing of note left out.

Updates are drawn in groups, of each the mean and both extremes, so that a spike of one update in a
hundred thousand is seen. Groups are small where a run begins, and all that happens at once happens.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..runs.figures import evaluations_in, number, updates_in
from ..runs.run_files import Record

QUANTITIES = ("loss", "grad_norm", "lr", "tokens_per_second", "mfu")

# Of an update, where in the run it is.
_PLACES = ("step", "tokens", "seconds")
_MOST_GROUPS = 1000
# A group holds at most this share of the updates up to it: log axes show the first of them.
_SHARE_OF_PAST = 0.01

Curve = dict[str, list[Any]]


def learning_curves(journal: Sequence[Record]) -> dict[str, Any]:
    """Return the columns of the curves of a run, ready for JSON; None makes a gap.

    `updates` has a row for each group: `step`, `tokens` and `seconds` of its last update, its
    `count`, and for each quantity that the run has a `mean`, and `low` and `high` if there is any
    group of several. `evaluations` has a row for each evaluation.
    """
    updates = updates_in(journal)
    groups = list(group(updates))
    columns: dict[str, Any] = {
        place: [_short(number(members[-1], place)) for members in groups] for place in _PLACES
    }
    columns["count"] = [len(members) for members in groups]
    for quantity in QUANTITIES:
        if any(quantity in record for record in updates):
            columns[quantity] = _quantity(groups, quantity)
    held_out = evaluations_in(journal)
    return {
        "updates": columns,
        "evaluations": {
            key: [_short(number(record, key)) for record in held_out]
            for key in (*_PLACES, "val_loss")
        },
    }


def group(updates: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Divide updates into runs of neighbours, without mixing those that lack a value with others.

    Where a loss is not finite there is a group of its own, which makes the gap.
    """
    largest = math.ceil(len(updates) / _MOST_GROUPS)
    begin = 0
    while begin < len(updates):
        size = max(1, min(largest, int(begin * _SHARE_OF_PAST)))
        end, lacks = begin + 1, _lacks(updates[begin])
        while end < min(begin + size, len(updates)) and _lacks(updates[end]) == lacks:
            end += 1
        yield updates[begin:end]
        begin = end


def _quantity(groups: list[Sequence[Record]], quantity: str) -> Curve:
    means: list[float | None] = []
    lows: list[float | None] = []
    highs: list[float | None] = []
    for members in groups:
        values = [value for record in members if (value := number(record, quantity)) is not None]
        # Each is divided before they are added: the sum of finite losses need not be finite.
        means.append(_short(sum(value / len(values) for value in values) if values else None))
        lows.append(_short(min(values, default=None)))
        highs.append(_short(max(values, default=None)))
    if all(len(members) == 1 for members in groups):
        return {"mean": means}
    return {"mean": means, "low": lows, "high": highs}


def _lacks(record: Record) -> tuple[bool, ...]:
    return tuple([number(record, quantity) is None for quantity in QUANTITIES])


def _short(value: float | None) -> float | None:
    """Return the value with as many digits as a drawing shows."""
    if value is None or value.is_integer():
        return value if value is None else int(value)
    return float(f"{value:.6g}")
