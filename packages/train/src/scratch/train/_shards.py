"""Several token files seen as one stream.

A corpus is written in shards, so that many processes can write it and none of them again what is
there; who reads it wants windows that begin anywhere. A slice within one shard is a view of it,
and only what crosses a border is copied.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Tokens = npt.NDArray[np.integer[Any]]


class TokenShards:
    """Arrays of token ids, one after another, as one sequence that cannot be written to.

    Attributes:
        shards: the arrays, in order.
        dtype: of all of them.

    Raises:
        TypeError: if a shard is not an array of integers.
        ValueError: if there is no shard, or one has another dtype or not one dimension.
    """

    def __init__(self, shards: Sequence[Tokens]) -> None:
        if not shards:
            raise ValueError("shards must hold at least one array, got none")
        for shard in shards:
            check_array(shard, "shard")
            if shard.dtype != shards[0].dtype:
                raise ValueError(
                    f"shards must have one dtype, got {shards[0].dtype} and {shard.dtype}"
                )
        # Plain views: to slice a memory map makes a new one each time, which is slow.
        self.shards = tuple(np.asarray(shard) for shard in shards)
        self.dtype = self.shards[0].dtype
        self._begins: list[int] = [0, *accumulate(map(len, self.shards))]
        self._ends = np.array(self._begins[1:])

    def __len__(self) -> int:
        return self._begins[-1]

    @overload
    def __getitem__(self, index: int) -> np.integer[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Tokens: ...
    def __getitem__(self, index: int | slice) -> np.integer[Any] | Tokens:
        """Return one id, or a slice of step 1 as an array that must not be written to."""
        if not isinstance(index, slice):
            start = index + len(self) if index < 0 else index
            if not 0 <= start < len(self):
                raise IndexError(f"index must be in {-len(self)} .. {len(self) - 1}, got {index}")
            return self._read(start, start + 1)[0]
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError(f"slices of token shards must have step 1, got {step}")
        return self._read(start, max(start, stop))

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Return all ids as one array: without a copy if there is one shard, else in memory."""
        if copy is False and len(self.shards) > 1:
            raise ValueError("several shards must be copied to be one array, got copy=False")
        return np.array(self[:], dtype, copy=copy)

    def windows(self, starts: npt.NDArray[np.int64], length: int) -> Tokens:
        """Return the `length` ids from each of `starts` as one row each."""
        if len(self.shards) == 1:
            return gather(self.shards[0], starts, length)
        rows = np.empty((len(starts), length), self.dtype)
        numbers: list[int] = np.searchsorted(self._ends, starts, side="right").tolist()
        places: list[int] = starts.tolist()
        for row, start, number in zip(rows, places, numbers, strict=True):
            begin = start - self._begins[number]
            ids = self.shards[number][begin : begin + length]
            row[:] = ids if len(ids) == length else self._read(start, start + length)
        return rows

    def _read(self, start: int, stop: int) -> Tokens:
        parts = [
            shard[max(0, start - begin) : stop - begin]
            for shard, begin in zip(self.shards, self._begins[:-1], strict=True)
            if begin < stop and start < begin + len(shard)
        ]
        ids = parts[0].view() if len(parts) == 1 else np.concatenate([self.shards[0][:0], *parts])
        ids.flags.writeable = False
        return ids

    def __repr__(self) -> str:
        return f"TokenShards({len(self):,} of {self.dtype} in {len(self.shards)})"


TokenStream = Tokens | TokenShards


def gather(tokens: Tokens, starts: npt.NDArray[np.int64], length: int) -> Tokens:
    """Return the `length` ids of an array from each of `starts` as one row each."""
    return sliding_window_view(np.asarray(tokens), length)[starts]


def check_array(tokens: Tokens, name: str) -> None:
    """Refuse what is not an array of integers in one dimension."""
    if not isinstance(tokens, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be a numpy array, got {type(tokens).__name__}")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise TypeError(f"{name} must hold integers, got dtype {tokens.dtype}")
    if tokens.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {tokens.shape}")
