"""Trainings in processes of their own, with what they say in a file."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ..runs.run_files import RunFiles


class Process(Protocol):
    """What a sweep asks of a training that it has begun, as `subprocess.Popen` has it."""

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Elsewhere:
    """A training that another trainer is at work on: it can be waited for, but not ended."""

    def __init__(self, path: Path) -> None:
        self._run = RunFiles(path)

    def poll(self) -> int | None:
        return None if self._run.is_locked() else 0

    def wait(self) -> int:
        return 0

    def terminate(self) -> None: ...
    def kill(self) -> None: ...


Start = Callable[[Sequence[str], Path, int], Process]


def start_training(arguments: Sequence[str], log: Path, parallel: int) -> Process:
    """Start `trainer` with these arguments; what it says is added to the file `log`.

    The cores are shared out among `parallel` trainings, unless the user has set OMP_NUM_THREADS.
    A session of its own keeps a terminal from interrupting it: the sweep does that, once.
    """
    environment = dict(os.environ)
    if parallel > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // parallel)))
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "scratch.trainer", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
