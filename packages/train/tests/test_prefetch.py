"""What is made ahead is what would have been made in time, and nobody waits for ever."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from scratch.train import Prefetch

PATIENCE_SECONDS = 30


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class Recorder:
    """Makes squares, and can be made to wait or fail at a step."""

    def __init__(self, *, fail_at: int = -1, wait_at: int = -1) -> None:
        self.made: list[int] = []
        self.threads: set[str] = set()
        self.fail_at, self.wait_at = fail_at, wait_at
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def __call__(self, done: int) -> int:
        self.threads.add(threading.current_thread().name)
        if done == self.wait_at:
            self.arrived.set()
            assert self.go_on.wait(PATIENCE_SECONDS)
        if done == self.fail_at:
            raise ArithmeticError(f"no square of {done}")
        self.made.append(done)
        return done * done


def within_patience(work: Callable[[], object]) -> None:
    """Do something that might never end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "it waits for ever"


@pytest.mark.parametrize("depth", [1, 2, 100])
@pytest.mark.parametrize(("start", "stop"), [(0, 50), (7, 8), (3, 3)])
def test_every_step_gets_its_own(depth: int, start: int, stop: int) -> None:
    make = Recorder()
    with Prefetch(make, start=start, stop=stop, depth=depth) as prefetch:
        assert [prefetch(done) for done in range(start, stop)] == [
            done * done for done in range(start, stop)
        ]
    assert make.made == list(range(start, stop))
    assert make.threads <= {"prefetch"}


def test_the_next_steps_are_made_while_nobody_asks_and_no_more_than_those() -> None:
    make = Recorder(wait_at=4)
    with Prefetch(make, start=0, stop=10**9, depth=3) as prefetch:
        assert prefetch(0) == 0
        assert prefetch(1) == 1  # so there is room for the steps 2, 3 and 4
        assert make.arrived.wait(PATIENCE_SECONDS), "step 4 is not made ahead"
        assert make.made == [0, 1, 2, 3]
        make.go_on.set()
        assert prefetch(2) == 4
    assert make.made[-1] <= 5


def test_an_exception_comes_out_where_its_step_is_asked_for() -> None:
    make = Recorder(fail_at=3)
    with Prefetch(make, start=0, stop=9, depth=9) as prefetch:
        assert [prefetch(done) for done in range(3)] == [0, 1, 4]
        for _ in range(2):
            with pytest.raises(ArithmeticError, match="no square of 3"):
                prefetch(3)
    assert make.made == [0, 1, 2]


def test_leaving_early_does_not_wait_for_what_nobody_wants() -> None:
    def leave(after: int) -> None:
        with Prefetch(Recorder(), start=0, stop=10**9) as prefetch:
            for done in range(after):
                prefetch(done)

    for after in (0, 1, 5):
        within_patience(partial(leave, after))


def test_an_exception_of_the_consumer_passes_through() -> None:
    with pytest.raises(KeyError, match="mine"), Prefetch(Recorder(), start=0, stop=9):
        raise KeyError("mine")


@pytest.mark.parametrize("wrong", [0, 2, -1, 9])
def test_steps_out_of_turn_are_refused(wrong: int) -> None:
    with Prefetch(Recorder(), start=0, stop=9) as prefetch:
        assert prefetch(0) == 0
        with pytest.raises(ValueError, match=f"from start to stop, got {wrong}, expected 1"):
            prefetch(wrong)
        assert prefetch(1) == 1


def test_steps_past_the_end_are_refused() -> None:
    with Prefetch(Recorder(), start=0, stop=1) as prefetch:
        assert prefetch(0) == 0
        with pytest.raises(ValueError, match="got 1, expected none any more"):
            prefetch(1)


def test_it_works_inside_its_block_only() -> None:
    prefetch = Prefetch(Recorder(), start=0, stop=9)
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        prefetch(0)
    with prefetch:
        assert prefetch(0) == 0
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        prefetch(1)
    with pytest.raises(RuntimeError, match="entered once"):
        prefetch.__enter__()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 3, "stop": 2}, "0 <= start <= stop, got 3 and 2"),
        ({"start": -1, "stop": 2}, "0 <= start <= stop, got -1 and 2"),
        ({"start": 0, "stop": 2, "depth": 0}, "depth must be at least 1, got 0"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prefetch(Recorder(), **options)
