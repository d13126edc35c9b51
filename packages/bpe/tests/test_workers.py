"""Work spread over executors: in order, few at a time, and nobody left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Event
from typing import Any

import pytest

from scratch.bpe._workers import (
    _MOST_UNDER_WAY,
    available_cores,
    check_workers,
    executor_of,
    run_in_order,
)


class Promises(Executor):
    """Promises everything, but only the first futures have a result, or an error, ever."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = outcomes
        self.futures: list[Future[Any]] = []

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if len(self.futures) < len(self.outcomes):
            outcome = self.outcomes[len(self.futures)]
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self.futures.append(future)
        return future


def test_without_an_executor_tasks_are_done_one_by_one() -> None:
    done: list[int] = []
    results = run_in_order(None, done.append, iter(range(3)))
    for number in range(3):
        assert next(results) == (number, None)
        assert done == list(range(number + 1))
    assert list(results) == []


@pytest.mark.parametrize("count", [0, 1, _MOST_UNDER_WAY, 3 * _MOST_UNDER_WAY + 1])
def test_each_task_comes_with_its_result(count: int) -> None:
    expected = [(number, str(number)) for number in range(count)]
    assert list(run_in_order(None, str, range(count))) == expected
    with ThreadPoolExecutor(3) as pool:
        assert list(run_in_order(pool, str, range(count))) == expected


def test_results_come_in_order_though_a_later_one_is_ready_first() -> None:
    second_is_done = Event()

    def work(number: int) -> None:
        if number == 0:
            second_is_done.wait()
        if number == 1:
            second_is_done.set()

    with ThreadPoolExecutor(2) as pool:
        assert [task for task, _ in run_in_order(pool, work, range(9))] == list(range(9))


def test_few_tasks_are_under_way_at_a_time() -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        while taken < 5 * _MOST_UNDER_WAY:
            taken += 1
            yield taken

    with ThreadPoolExecutor(2) as pool:
        for number, _ in run_in_order(pool, str, tasks()):
            assert taken < number + _MOST_UNDER_WAY
    assert taken == 5 * _MOST_UNDER_WAY


def test_an_error_comes_at_its_turn_and_cancels_the_rest() -> None:
    pool = Promises("zero", ValueError("task 1"))
    results = run_in_order(pool, str, range(9))
    assert next(results) == (0, "zero")
    with pytest.raises(ValueError, match="task 1"):
        next(results)
    assert len(pool.futures) == 9
    assert all(future.cancelled() for future in pool.futures[2:])


def test_an_error_of_the_tasks_cancels_what_is_under_way() -> None:
    def tasks() -> Iterator[int]:
        yield from range(3)
        raise OSError("no more tasks")

    pool = Promises()
    with pytest.raises(OSError, match="no more tasks"):
        next(run_in_order(pool, str, tasks()))
    assert [future.cancelled() for future in pool.futures] == [True] * 3


def test_what_nobody_waits_for_any_more_is_cancelled() -> None:
    pool = Promises("zero")
    results = run_in_order(pool, str, range(9))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert [future.cancelled() for future in pool.futures] == [False] + [True] * 8


def test_one_worker_is_no_pool() -> None:
    with executor_of(None, 1) as pool:
        assert pool is None


def test_an_executor_of_the_caller_stays_open() -> None:
    with ThreadPoolExecutor(1) as mine:
        with executor_of(mine, 1) as pool:
            assert pool is mine
        with pytest.raises(ValueError, match="mine"), executor_of(mine, 4):
            raise ValueError("mine")
        assert mine.submit(abs, -1).result() == 1


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_a_pool_ends_with_the_block(error: type[BaseException] | None) -> None:
    before = set(multiprocessing.active_children())
    try:
        with executor_of(None, 2) as pool:
            assert isinstance(pool, ProcessPoolExecutor)
            assert list(run_in_order(pool, abs, [-1, -2])) == [(-1, 1), (-2, 2)]
            assert set(multiprocessing.active_children()) > before
            if error is not None:
                raise error
    except BaseException as caught:
        assert type(caught) is error  # noqa: PT017
    assert set(multiprocessing.active_children()) == before


def test_a_worker_that_is_killed_is_told() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(BrokenProcessPool), executor_of(None, 2) as pool:
        list(run_in_order(pool, os._exit, range(10)))
    assert set(multiprocessing.active_children()) == before


def test_an_interrupt_is_for_the_parent_alone() -> None:
    with executor_of(None, 2) as pool:
        assert pool is not None
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = """if __name__ == "__main__":
        import os, signal
        from scratch.bpe._workers import executor_of
        with executor_of(None, 3) as pool:
            for number in range(9):
                pool.submit(abs, number).result()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    # The pipe ends when nobody is left who could write to it.
    finished = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60)
    assert finished.returncode == -signal.SIGKILL


@pytest.mark.parametrize("workers", [None, 1, 2, 1000])
def test_some_workers_are_enough(workers: int | None) -> None:
    check_workers(workers, None)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_refused(workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers must be .* at least 1, got {workers}"):
        check_workers(workers, None)


@pytest.mark.parametrize("workers", [True, 2.0, "2"], ids=repr)
def test_workers_are_a_whole_number(workers: Any) -> None:
    with pytest.raises(TypeError, match=f"workers must be a whole number, got {workers!r}"):
        check_workers(workers, None)


def test_workers_beside_an_executor_are_refused() -> None:
    check_workers(None, Promises())
    with pytest.raises(ValueError, match=r"must be None if there is an executor, .*=2"):
        check_workers(2, Promises())


def test_there_is_a_core() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
