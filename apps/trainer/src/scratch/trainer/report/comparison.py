"""What runs have in common, where they differ, and which of them are one experiment with seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import BESIDE_THE_COMPUTATION

# Settings that do not change what is computed, or only by chance: runs that differ in no others are
# seeds of one thing.
_BESIDE_THE_POINT = BESIDE_THE_COMPUTATION | {"seed"}


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a figure over some runs; the latter needs two of them."""

    mean: float
    deviation: float | None
    count: int


def differing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same everywhere, in their order."""
    keys = dict.fromkeys(key for values in settings for key in values)
    return [key for key in keys if any(s.get(key) != settings[0].get(key) for s in settings)]


def differing_experiments(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that differ and make another experiment, not the same with another seed."""
    return [key for key in differing_keys(settings) if key not in _BESIDE_THE_POINT]


def seed_groups(settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return the positions of runs whose settings differ in nothing but the seed, together."""
    groups: dict[str, list[int]] = {}
    for position, values in enumerate(settings):
        matter = {key: value for key, value in values.items() if key not in _BESIDE_THE_POINT}
        groups.setdefault(repr(sorted(matter.items())), []).append(position)
    return list(groups.values())


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return mean and spread of the values that are known, or None if none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.fmean(known), deviation, len(known))
