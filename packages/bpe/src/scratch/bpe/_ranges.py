"""Many ranges of indices, one after another: `arange(start, start + length)` for each."""

import numpy as np

from ._classes import IntArray


def join_ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Return the indices of all ranges, joined.

    The differences of neighbours are ones, except where a range begins; their running sum is twice
    as fast as repeating each start.
    """
    if not lengths.all():
        starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    if not len(starts):
        return np.empty(0, np.int64)
    ends = lengths.cumsum()
    steps = np.ones(ends[-1], np.int64)
    steps[0] = starts[0]
    steps[ends[:-1]] = starts[1:] - (starts[:-1] + lengths[:-1] - 1)
    return np.cumsum(steps, out=steps)
