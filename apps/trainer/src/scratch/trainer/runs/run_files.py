"""The files of a run, read without torch: what it is, what happened, how it stands."""

import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from filelock import FileLock, Timeout

from ..config import TrainSettings
from ..toml import load_toml

Record = dict[str, Any]
Status = Literal["new", "running", "stopped", "diverged", "failed", "finished"]

_EVENTS: dict[str, Status] = {
    "stopped": "stopped",
    "diverged": "diverged",
    "failed": "failed",
    "finished": "finished",
}


@dataclass(frozen=True)
class State:
    """How a run stands, and why, where it tells."""

    status: Status
    reason: str = ""


class RunFiles:
    """Looks into the directory of a run, and changes nothing there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def settings(self) -> TrainSettings:
        """Return the settings of the run. Raises `ValueError` if there is no run."""
        config = self.path / "config.toml"
        if not config.is_file():
            raise ValueError(
                f"{self.path} must be the directory of a run, got no config.toml in it; "
                "make one with: trainer train --data DATA --out RUN --steps N"
            )
        return load_toml(config, TrainSettings)

    @cached_property
    def journal(self) -> list[Record]:
        """The lines of the journal, as they were when first asked for."""
        return read_journal(self.path / "metrics.jsonl")

    def environment(self) -> dict[str, Any]:
        """Return what the run was made with: versions, machine, device; of some runs nothing."""
        path = self.path / "environment.json"
        if not path.is_file():
            return {}
        try:
            values: Any = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} must be JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold an object, got {values!r}")
        return cast("dict[str, Any]", values)

    def parameters(self) -> int | None:
        """Return how many parameters the model has, where something tells."""
        weights = self.path / "model.safetensors"
        if not weights.is_file():
            known = self.environment().get("parameters")
            return known if isinstance(known, int) else None
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            try:
                header: dict[str, Any] = json.loads(file.read(min(size, 2**27)))
                return sum(
                    math.prod(tensor["shape"])
                    for name, tensor in header.items()
                    if name != "__metadata__"
                )
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ValueError(f"{weights} must be a file of safetensors") from None

    def state(self) -> State:
        """Return how the run stands: who holds its lock is at work, whatever the files say.

        An event counts until an update comes after it, as when a stopped run has gone on.
        """
        if self.is_locked():
            return State("running")
        lines = [line for line in self.journal if "loss" in line or line.get("event") in _EVENTS]
        if lines and "event" in lines[-1]:
            event = lines[-1]
            return State(_EVENTS[event["event"]], str(event.get("reason") or ""))
        if self.path.joinpath("model.safetensors").is_file():
            return State("finished")
        return State("stopped" if lines else "new")

    def is_locked(self) -> bool:
        """Return whether a trainer is at work here. Makes no file, so that none is left behind."""
        lock = self.path / ".lock"
        if not lock.is_file():
            return False
        try:
            with FileLock(lock).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # somebody else's run, or a read-only disk: only the files tell
            return False

    def written(self) -> float:
        """Return when the run last wrote anything down, in seconds since 1970."""
        journal = self.path / "metrics.jsonl"
        return (journal if journal.is_file() else self.path / "config.toml").stat().st_mtime


def find_runs(directory: Path) -> list[Path]:
    """Return the runs in a directory at any depth, or the directory itself if it is one."""
    found: list[Path] = []
    for place, folders, files in os.walk(directory):
        if "config.toml" in files:
            found.append(Path(place))
            folders.clear()
    return sorted(found)


def read_journal(path: Path) -> list[Record]:
    """Return the lines of a journal, without one at the end that was cut short by a crash.

    Raises:
        ValueError: if another line is damaged, naming it.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    # What follows the last line end is empty, or torn.
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines[:-1], 1)]


def _parse(line: bytes, name: str) -> Record:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{name} must be JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):  # pyright: ignore[reportUnknownMemberType]
        raise ValueError(f"{name} must have a step, got {record!r}")
    return cast("Record", record)
