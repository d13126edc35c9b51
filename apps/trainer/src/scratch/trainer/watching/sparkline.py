"""A curve in a few lines of text, made of the eighths of Unicode's blocks."""

import math
from collections.abc import Sequence

_BLOCKS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = len(_BLOCKS) - 1
_MOST_BUCKETS = 512
_QUANTILE = 0.95


class Course:
    """The course of a value over the steps, in a memory that does not grow with them.

    Steps are counted into buckets of equal width. When there are too many, each two become one.
    """

    def __init__(self) -> None:
        self._width = 1
        self._sums: list[float] = []
        self._counts: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Add the value of a step, counted from 1."""
        while (bucket := (step - 1) // self._width) >= _MOST_BUCKETS:
            self._sums, self._counts = _in_pairs(self._sums), _in_pairs(self._counts)
            self._width *= 2
        missing = bucket + 1 - len(self._sums)
        self._sums += [0.0] * missing
        self._counts += [0.0] * missing
        self._sums[bucket] += value
        self._counts[bucket] += 1

    def means(self, most: int) -> list[float]:
        """Return the means over equal spans of steps, `most` of them or fewer.

        A span without a value has that of the one before.
        """
        length = len(self._sums)
        spans = min(most, length)
        means: list[float] = []
        for span in range(spans):
            part = slice(span * length // spans, (span + 1) * length // spans)
            if count := sum(self._counts[part]):
                means.append(sum(self._sums[part]) / count)
            elif means:
                means.append(means[-1])
        return means


def sparkline(values: Sequence[float], *, rows: int) -> tuple[list[str], float, float]:
    """Return the lines of a curve, the top one first, and what its bottom and its top stand for.

    The highest twentieth of the values is cut off, so that a steep beginning leaves room for what
    comes after it.
    """
    if not values:
        return [""] * rows, math.nan, math.nan
    low = min(values)
    high = sorted(values)[math.ceil(_QUANTILE * (len(values) - 1))]
    span = (high - low) or 1.0
    steps = rows * _EIGHTHS - 1
    heights = [1 + round(min(1.0, (value - low) / span) * steps) for value in values]
    lines = [
        "".join(_BLOCKS[max(0, min(_EIGHTHS, height - below))] for height in heights)
        for below in range((rows - 1) * _EIGHTHS, -1, -_EIGHTHS)
    ]
    return lines, low, high


def _in_pairs(values: list[float]) -> list[float]:
    return [sum(values[first : first + 2]) for first in range(0, len(values), 2)]
