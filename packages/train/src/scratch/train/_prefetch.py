"""Batches made ahead: while the model works on one step, a thread makes what the next ones need.

Since a batch is a function of the step, nothing depends on how far ahead the thread is.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Calls `make(start)`, `make(start + 1)`, ... ahead of time, in a thread of its own.

    In a `with` block it is itself a function: `prefetch(done)` returns `make(done)`, for each
    `done` of `start .. stop - 1` in turn. What `make` raises comes out where its step is asked for.
    Leaving the block ends the thread, after the call of `make` that it is in.

    Args:
        make: maps the number of updates done to what the next one needs; called by one thread only.
        start, stop: the first step to make, and the one before which to end.
        depth: the most steps to have ready.

    Raises:
        ValueError: if not `0 <= start <= stop`, or `depth` is below 1.
    """

    def __init__(self, make: Callable[[int], T], *, start: int, stop: int, depth: int = 2) -> None:
        if not 0 <= start <= stop:
            raise ValueError(f"start and stop must be 0 <= start <= stop, got {start} and {stop}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self._make, self._next, self._stop, self._depth = make, start, stop, depth
        self._ready: deque[T] = deque()
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Prefetch[T]":
        if self._thread is not None:
            raise RuntimeError("a Prefetch must be entered once, got a second time")
        # As a daemon it cannot keep a program alive whose block is never left.
        self._thread = threading.Thread(
            target=self._work, args=(self._next,), name="prefetch", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        with self._changed:
            self._ended = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def __call__(self, done: int) -> T:
        """Return `make(done)`.

        Raises:
            ValueError: if `done` is not the next step, or there is no further one.
            RuntimeError: outside of the `with` block.
        """
        with self._changed:
            if self._thread is None or self._ended:
                raise RuntimeError("a Prefetch must be called inside its `with` block")
            if done != self._next or done >= self._stop:
                expected = self._next if self._next < self._stop else "none any more"
                raise ValueError(
                    f"done must count up from start to stop, got {done}, expected {expected}"
                )
            self._changed.wait_for(lambda: self._ready or self._error is not None)
            if not self._ready:
                assert self._error is not None
                raise self._error
            self._next += 1
            made = self._ready.popleft()
            self._changed.notify_all()
            return made

    def _work(self, start: int) -> None:
        for done in range(start, self._stop):
            with self._changed:
                self._changed.wait_for(lambda: self._ended or len(self._ready) < self._depth)
                if self._ended:
                    return
            try:
                made = self._make(done)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                if self._ended:
                    return
                self._ready.append(made)
                self._changed.notify_all()
