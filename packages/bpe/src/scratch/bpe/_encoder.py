"""Text to ids, the array form: windows of words through the tables of `_word_ids`.

Several windows are looked up before what none of the tables knew is encoded, in one batch. Threads
take turns at the tables; cutting text into words they do at the same time.
"""

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np

from ._batched_encode import BatchedMerges
from ._classes import IntArray
from ._word_cache import ValueArray
from ._word_ids import NOTHING, IdArray, Unseen, WordIds
from ._words import SEPARATOR, Window

WINDOWS_AT_ONCE = 16


class Encoder:
    """Encodes windows of words. May be used by several threads.

    Args:
        tokens: the bytes of each symbol.
        ids: the id of each symbol.
        merges: what applies the merges, to symbols.
        whole_words: the id of each word that is one token although no merges lead there.
        special_ids: the id of each special token.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        ids: IdArray,
        merges: BatchedMerges,
        whole_words: Mapping[bytes, int],
        special_ids: Sequence[int],
    ) -> None:
        self._tables_for = (tokens, ids, merges, whole_words)
        # The last one is that of SEPARATOR, which is -1.
        self._special_values = np.array([*special_ids, NOTHING], np.uint32)
        self._lock = threading.Lock()
        self._tables = WordIds(*self._tables_for)
        _renew_locks_after_fork()
        _ENCODERS.add(self)

    def encode(
        self, windows: Iterable[Window], *, at_once: int = WINDOWS_AT_ONCE
    ) -> Iterator[IdArray]:
        """Yield the ids of each window. `at_once` of them are encoded together."""
        remaining = iter(windows)
        while True:
            tables, unseen, waiting = self._tables_with_room(), Unseen(), list[ValueArray]()
            # The lock is not held while windows are made: who makes them may use this encoder.
            for window in islice(remaining, at_once):
                with self._lock:
                    waiting.append(self._look_up(tables, window, unseen))
            if not waiting:
                return
            with self._lock:
                tables.encode(unseen)
                spread = [tables.spread(values)[0] for values in waiting]
            yield from spread

    def encode_parted(self, window: Window) -> tuple[IdArray, IntArray]:
        """Return the ids of a window, and how many of them stand before each separator."""
        tables, unseen = self._tables_with_room(), Unseen()
        with self._lock:
            values = self._look_up(tables, window, unseen)
            tables.encode(unseen)
            ids, ends = tables.spread(values)
        return ids, ends[window.special_words[window.special_tokens == SEPARATOR]]

    def renew_lock(self) -> None:
        """Make a new lock in a forked process: of the old one nobody may be left to release it."""
        if self._lock.locked():  # another thread was about to change the tables
            self._tables = WordIds(*self._tables_for)
        self._lock = threading.Lock()

    def _tables_with_room(self) -> WordIds:
        """Return the tables, new ones if they are full; who still uses the old ones may go on."""
        with self._lock:
            if self._tables.is_full:
                self._tables = WordIds(*self._tables_for)
            return self._tables

    def _look_up(self, tables: WordIds, window: Window, unseen: Unseen) -> ValueArray:
        values = tables.look_up(window, unseen)
        if len(window.special_words):
            values[window.special_words] = self._special_values[window.special_tokens]
        return values


_ENCODERS: weakref.WeakSet[Encoder] = weakref.WeakSet()


@lru_cache(maxsize=1)
def _renew_locks_after_fork() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: [each.renew_lock() for each in _ENCODERS])
