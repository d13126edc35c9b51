"""Trackers: where the metrics go besides the journal. None can stop, slow or hang a run.

Libraries that show metrics talk to servers, install exit handlers, and wait. wandb, for one, keeps
a finished program from ending while its server does not answer. So each tracker is a process that
can be killed (`tracker_process.py`), fed by a thread from a bounded queue. The truth stays in
`metrics.jsonl`.
"""

import json
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self

from .display import say

_QUEUE_RECORDS = 1000
_CLOSE_SECONDS = 10.0
_KILLED_SECONDS = 1.0  # a process that was killed is gone sooner


class Trackers:
    """All trackers of a run; a context that ends them."""

    def __init__(self, trackers: Iterable["Tracker"], *, close_seconds: float) -> None:
        self.all = tuple(trackers)
        self._close_seconds = close_seconds

    @classmethod
    def open(
        cls,
        names: Iterable[str],
        run_path: Path,
        config: Mapping[str, Any],
        *,
        close_seconds: float = _CLOSE_SECONDS,
        queue_records: int = _QUEUE_RECORDS,
    ) -> Self:
        """Start the trackers; each keeps its files in a directory of its name in `run_path`.

        A run that is opened again goes on in the same run of the tracker.

        Raises:
            ValueError: if the library of a tracker is not installed.
        """
        names = tuple(names)
        check_installed(names)
        return cls(
            [Tracker(name, run_path, config, queue_records=queue_records) for name in names],
            close_seconds=close_seconds,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def log(self, record: Mapping[str, Any]) -> None:
        """Send the numbers of a line of the journal. Returns at once, whatever happens."""
        values = {
            key: value
            for key, value in record.items()
            if key != "step" and type(value) in (int, float) and math.isfinite(value)
        }
        if values:
            for tracker in self.all:
                tracker.log({"step": record["step"], "values": values})

    def close(self) -> None:
        """Let the trackers send what is left, all at once, and leave those that take too long."""
        deadline = time.monotonic() + self._close_seconds
        for tracker in self.all:
            tracker.end()
        for tracker in self.all:
            tracker.join(deadline, self._close_seconds)


class Tracker:
    """A process that shows metrics, and the thread that feeds it."""

    def __init__(
        self, name: str, run_path: Path, config: Mapping[str, Any], *, queue_records: int
    ) -> None:
        self.name = name
        self.dropped = 0
        self._off = self._left = False
        self._journal = run_path / "metrics.jsonl"
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._queue_records = queue_records
        self._thread: Thread | None = None
        directory = run_path / name
        try:
            directory.mkdir(parents=True, exist_ok=True)
            run = {
                "directory": str(directory.absolute()),
                "name": run_path.absolute().name,
                "id": _identity(directory / "id"),
                "config": config,
            }
            self.process = _start(name, directory / "output.log")
        except OSError as error:
            self._turn_off(str(error))
            return
        self._thread = Thread(target=self._feed, args=(run,), daemon=True, name=f"tracker {name}")
        self._thread.start()

    def log(self, record: dict[str, Any]) -> None:
        if self._off:
            return
        if self._queue.qsize() < self._queue_records:
            self._queue.put(record)
            return
        self.dropped += 1
        if self.dropped == 1:
            say(f"{self.name} is slow and is not sent all metrics; they are in {self._journal}")

    def end(self) -> None:
        """Ask the tracker to end when it has sent what is in the queue."""
        self._queue.put(None)

    def join(self, deadline: float, allowed_seconds: float) -> None:
        """Wait for the end until a time of the monotonic clock, then kill."""
        if self._thread is None:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._left = True
            _kill(self.process)
            self._thread.join(_KILLED_SECONDS)
            say(
                f"{self.name} was not done {allowed_seconds:g} s after the end and was left; "
                f"the metrics are in {self._journal}"
            )

    def _feed(self, run: Mapping[str, Any]) -> None:
        """Pass on what is in the queue until it ends; works in the thread."""
        inlet, outlet = self.process.stdin, self.process.stdout
        assert inlet is not None
        assert outlet is not None
        answer: dict[str, Any] = {}
        try:
            _write_line(inlet, run)
            answer = _read_answer(outlet)
            if url := answer.get("url"):
                say(f"{self.name} shows the metrics at {url}")
            while "error" not in answer and (record := self._queue.get()) is not None:
                _write_line(inlet, record)
            inlet.close()
        except OSError:  # the process is gone; it has said why
            with suppress(OSError):
                inlet.close()
        rest = outlet.readlines()  # until it ends
        outlet.close()
        status = self.process.wait()
        if rest:
            answer = json.loads(rest[-1])
        if status and not self._left:
            self._turn_off(answer.get("error", f"its process ended with {status}"))

    def _turn_off(self, reason: str) -> None:
        self._off = True
        say(f"{self.name} is off: {reason}; the metrics are in {self._journal}")


def check_installed(names: Iterable[str]) -> None:
    """Raise `ValueError` if the library of a tracker is not installed, without importing it."""
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # without one, it is any directory of that name
            raise ValueError(
                f"trackers must be installed, got no package {name}; "
                f'install it with: pip install "scratch-trainer[{name}]"'
            )


def _identity(path: Path) -> str:
    """Return the name of the run in the tracker, the same whenever it goes on."""
    if path.is_file() and (identity := path.read_text(encoding="utf-8").strip()):
        return identity
    identity = secrets.token_hex(4)
    path.write_text(identity, encoding="utf-8")
    return identity


def _start(name: str, log: Path) -> "subprocess.Popen[str]":
    command: Sequence[str] = (sys.executable, "-P", "-m", f"{__package__}.tracker_process", name)
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the trainer, which then ends it
        )


def _kill(process: "subprocess.Popen[str]") -> None:
    """Kill a process and those that it started."""
    with suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)  # its session is a group of that number
        else:
            process.kill()


def _write_line(file: Any, content: Mapping[str, Any]) -> None:
    file.write(json.dumps(content, default=str) + "\n")
    file.flush()


def _read_answer(file: Any) -> dict[str, Any]:
    """Return what the process says, or nothing if it has ended without a word."""
    line = file.readline()
    return json.loads(line) if line else {}
