"""Sampling without state: the windows of a step are a function of the seed and the step.

An epoch visits each window of `context_length` tokens once, in an order given by a permutation that
is computed, never stored: a Feistel network (Luby and Rackoff, 1988) keyed by seed and epoch. To
resume, all one needs is the step; to start again elsewhere, the same seed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class WindowSampler:
    """Where the windows of each step start.

    The windows of an epoch lie side by side; the first begins at an offset that changes with the
    epoch, so that the cuts fall elsewhere each time.

    Attributes:
        num_tokens: length of the data.
        context_length: tokens of a window; one more is needed for the last target.
        batch_size: windows of a step, over all micro-batches and processes.
        seed: of the order and the offsets.

    Raises:
        ValueError: if the data is too short for one window, or a size is below 1.
    """

    num_tokens: int
    context_length: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("context_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_tokens <= self.context_length:
            raise ValueError(
                "num_tokens must exceed context_length, for every window has a next token, "
                f"got num_tokens={self.num_tokens}, context_length={self.context_length}"
            )

    @property
    def windows_per_epoch(self) -> int:
        # One window less than fit, if there is a choice: room for any offset.
        return max(1, (self.num_tokens - self.context_length) // self.context_length)

    def starts(self, step: int) -> npt.NDArray[np.int64]:
        """Return the `batch_size` start indices of the update after `step` updates."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        samples = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        epochs, places = np.divmod(samples, self.windows_per_epoch)
        starts = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            key = mix(self.seed, int(epoch))
            order = permute(places[chosen], self.windows_per_epoch, key)
            starts[chosen] = self._offset(key) + order * self.context_length
        return starts

    def _offset(self, key: int) -> int:
        spare = self.num_tokens - self.windows_per_epoch * self.context_length
        return mix(key, -1) % spare


def permute(indices: npt.NDArray[np.integer[Any]], size: int, key: int) -> npt.NDArray[np.int64]:
    """Return where each index of `0 .. size - 1` goes in the permutation that `key` names.

    A Feistel network permutes the numbers of an even number of bits, whatever its round function
    is. What lands at `size` or beyond walks on until it is below, which permutes `0 .. size - 1`.

    Raises:
        ValueError: if an index is out of range.
    """
    if len(indices) and not 0 <= indices.min() <= indices.max() < size:
        wrong = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(f"indices must be in 0 .. {size - 1}, got {wrong}")
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    places = _feistel(np.asarray(indices).astype(np.uint64), half_bits, key)
    while (outside := places >= size).any():
        places[outside] = _feistel(places[outside], half_bits, key)
    return places.astype(np.int64)


def mix(seed: int, number: int) -> int:
    """Return 64 bits that look unrelated for each pair of whole numbers."""
    state = np.array([(seed * _GOLDEN + number) & _MASK64], np.uint64)
    return int(_scramble(_scramble(state) + np.uint64(_GOLDEN))[0])


def _feistel(values: UInt64s, half_bits: int, key: int) -> UInt64s:
    shift, low = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & low
    for number in range(_ROUNDS):
        round_key = np.uint64((key + (number + 1) * _GOLDEN) & _MASK64)
        left, right = right, left ^ (_scramble(right + round_key) & low)
    return (left << shift) | right


def _scramble(values: UInt64s) -> UInt64s:
    """Mix the bits of 64-bit numbers (the finalizer of SplitMix64; Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
