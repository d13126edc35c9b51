"""The journal of a run: `metrics.jsonl`, one JSON object a line, the truth about what happened."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scratch.train import atomic_write

from .run_files import read_journal


class Journal:
    """Appends lines, and takes back those past a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held_out: dict[int, float] | None = None

    def read(self) -> list[dict[str, Any]]:
        """Return the lines, without one at the end that was cut short by a crash.

        Raises:
            ValueError: if another line is damaged, naming it.
        """
        return read_journal(self._path)

    def held_out_losses(self) -> dict[int, float]:
        """Return the finite losses on held-out text by their steps; the file is read once."""
        if self._held_out is None:
            self._held_out = {}
            self._note(self.read())
        return self._held_out

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records at the end. Infinities and NaN, which JSON lacks, become null.

        A line that was cut short there gives way: written on, it would be a damaged one.
        """
        written = [without_non_finite(record) for record in records]
        text = "".join(json.dumps(record) + "\n" for record in written)
        with self._path.open("a+b") as file:
            if end := file.tell():
                file.seek(end - 1)
                if file.read() != b"\n":
                    file.truncate(self._path.read_bytes().rfind(b"\n") + 1)
            file.write(text.encode())
        self._note(written)

    def sync(self) -> None:
        """Wait until the lines written so far are on the disk."""
        with self._path.open("a") as file:
            os.fsync(file.fileno())

    def end(self, step: int, event: str, reason: str = "") -> None:
        """Write down how it ended after `step`, unless that is what it says already."""
        record = {"step": step, "event": event, "reason": reason}
        if self.read()[-1:] != [record]:
            self.append([record])

    def go_back_to(self, step: int) -> dict[str, Any]:
        """Drop the lines past `step` and those of an end; return the totals of the last update.

        Raises:
            ValueError: if the line of update `step` is missing.
        """
        kept = [r for r in self.read() if r["step"] <= step and "event" not in r]
        updates = [record for record in kept if "loss" in record]
        last = updates[-1] if updates else {"step": 0, "tokens": 0, "seconds": 0.0}
        if last["step"] != step:
            raise ValueError(f"{self._path} must hold the line of step {step}, got none")
        self._replace(kept)
        self._held_out = None
        return {key: last[key] for key in ("step", "tokens", "seconds")}

    def _replace(self, records: list[dict[str, Any]]) -> None:
        with atomic_write(self._path) as file:
            file.write("".join(json.dumps(record) + "\n" for record in records).encode())

    def _note(self, records: Iterable[dict[str, Any]]) -> None:
        if self._held_out is not None:
            for record in records:
                if record.get("val_loss") is not None:
                    self._held_out[record["step"]] = record["val_loss"]


class FollowedJournal(Journal):
    """The journal as a process knows it that does not write it: what it says itself, in memory.

    It is told what the file holds when it begins, and from then on the same as who writes the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._records: list[dict[str, Any]] = []

    def begin_with(self, records: Iterable[dict[str, Any]]) -> None:
        self._records = list(records)
        self._held_out = None

    def read(self) -> list[dict[str, Any]]:
        return list(self._records)

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        written = [without_non_finite(record) for record in records]
        self._records += written
        self._note(written)

    def sync(self) -> None:
        pass

    def _replace(self, records: list[dict[str, Any]]) -> None:
        self._records = records


def without_non_finite(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with null for infinities and NaN, which JSON lacks."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
