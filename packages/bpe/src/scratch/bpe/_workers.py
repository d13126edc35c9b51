"""Work spread over an executor, with results in order and only a few of them waiting."""

import errno
import os
import platform
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is (0 if nobody knows)."""

SHARED = "workers must see all files by the same paths as the caller, on a shared file system"

# An executor does not tell how many work for it.
_MOST_UNDER_WAY = 64


@dataclass(frozen=True)
class Afar(Generic[Task, Result]):
    """Does a function's work in an executor whose workers may be on other machines.

    An error with a file tells on which: there, the file may not be what it is for the caller.
    """

    function: Callable[[Task], Result]

    def __call__(self, task: Task) -> Result:
        try:
            return self.function(task)
        except OSError as error:
            if error.errno is None or error.filename is None:
                raise
            told, number = f"{error.strerror}, for the worker on {platform.node()}", error.errno
            if number in (errno.ENOENT, errno.ENOTDIR):
                told, number = f"{told}; {SHARED}", errno.ENOENT
            raise OSError(number, told, error.filename) from None


@contextmanager
def executor_of(executor: Executor | None, workers: int) -> Generator[Executor | None]:
    """Give the executor, a pool of processes that ends with the block, or None for one worker."""
    if executor is not None or workers == 1:
        yield executor
        return
    from concurrent.futures import ProcessPoolExecutor  # which takes a while, and most never need

    pool = ProcessPoolExecutor(workers, initializer=_follow_the_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_in_order(
    executor: Executor | None,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    most_under_way: int = _MOST_UNDER_WAY,
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result, in the order of the tasks."""
    if executor is None:
        for task in tasks:
            yield task, function(task)
        return
    under_way: deque[tuple[Task, Future[Result]]] = deque()
    try:
        for task in tasks:
            under_way.append((task, executor.submit(function, task)))
            if len(under_way) == most_under_way:
                first, future = under_way.popleft()
                yield first, future.result()
        while under_way:
            first, future = under_way.popleft()
            yield first, future.result()
    finally:
        for _, future in under_way:
            future.cancel()


def check_workers(workers: int | None, executor: Executor | None) -> None:
    """Refuse a number of workers that is none, or one beside an executor."""
    if workers is None:
        return
    if isinstance(workers, bool) or not isinstance(workers, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"workers must be a whole number, got {workers!r}")
    if workers < 1:
        raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")
    if executor is not None:
        raise ValueError(f"workers must be None if there is an executor, got workers={workers}")


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _follow_the_parent() -> None:
    """Leave interrupts to the parent, and end when it does, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    from multiprocessing import parent_process  # as above

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
