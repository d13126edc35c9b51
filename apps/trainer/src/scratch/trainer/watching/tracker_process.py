"""One tracker in a process of its own: metrics come in as JSON lines, and go to who shows them.

`trackers.py` starts it and ends it. The first line of the input says what run it is; the first
line of the output says where the metrics can be seen, or what went wrong.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

_PROJECT = "scratch-trainer"
_FLUSH_SECONDS = 10


class Tracker(Protocol):
    """What wandb and trackio both call a run."""

    def log(self, values: dict[str, float], step: int) -> object: ...

    def finish(self) -> object: ...


class TensorBoard:
    """Event files for `tensorboard --logdir`, by its own writer, which needs no torch."""

    def __init__(self, directory: str) -> None:
        writers = import_module("tensorboard.summary.writer.event_file_writer")
        self._events = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries = import_module("tensorboard.compat.proto.summary_pb2")
        self._writer = writers.EventFileWriter(directory, flush_secs=_FLUSH_SECONDS)
        self._started = False

    def log(self, values: dict[str, float], step: int) -> None:
        if not self._started:  # hides what an earlier session wrote from this step on
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(step, session_log=start)
            self._started = True
        scalar = self._summaries.Summary.Value
        summary = [scalar(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, summary=self._summaries.Summary(value=summary))

    def finish(self) -> None:
        self._writer.close()

    def _write(self, step: int, **content: object) -> None:
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, **content))


def _open_tensorboard(run: Mapping[str, Any]) -> Tracker:
    return TensorBoard(run["directory"])


def _open_wandb(run: Mapping[str, Any]) -> Tracker:
    return import_module("wandb").init(
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        dir=str(Path(run["directory"]).parent),  # it makes a directory `wandb` there
        id=run["id"],
        resume="allow",
        name=run["name"],
        config=run["config"],
    )


def _open_trackio(run: Mapping[str, Any]) -> Tracker:
    return import_module("trackio").init(
        project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
        name=f"{run['name']}-{run['id']}",  # by which it finds the run again
        resume="allow",
        config=run["config"],
    )


_OPEN: dict[str, Callable[[Mapping[str, Any]], Tracker]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
}


def main(name: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log, which is stderr
    try:
        tracker = _OPEN[name](json.loads(sys.stdin.readline()))
        _answer(answers, {"url": getattr(tracker, "url", None)})
        for line in sys.stdin:
            record = json.loads(line)
            tracker.log(record["values"], step=record["step"])
        tracker.finish()
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        first_line = (str(error).splitlines() or [""])[0]
        _answer(answers, {"error": f"{type(error).__name__}: {first_line}"})
        os._exit(1)  # what libraries do at exit may take for ever


def _answer(answers: Any, answer: Mapping[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
