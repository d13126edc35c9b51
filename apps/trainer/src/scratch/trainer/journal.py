"""The journal of a run: `metrics.jsonl`, one JSON object a line, the truth about what happened."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from scratch.train import atomic_write


class Journal:
    """Appends lines, and takes back those past a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[dict[str, Any]]:
        """Return the lines, without one at the end that was cut short by a crash.

        Raises:
            ValueError: if another line is damaged, naming it.
        """
        if not self._path.exists():
            return []
        lines = self._path.read_bytes().split(b"\n")
        records: list[dict[str, Any]] = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record: Any = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{self._path}, line {number} must be JSON: {error}") from None
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):  # pyright: ignore[reportUnknownMemberType]
                raise ValueError(f"{self._path}, line {number} must have a step, got {record!r}")
            records.append(cast("dict[str, Any]", record))
        return records  # what follows the last line end is empty, or torn

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records at the end. Infinities and NaN, which JSON lacks, become null."""
        text = "".join(json.dumps(without_non_finite(record)) + "\n" for record in records)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)

    def sync(self) -> None:
        """Wait until the lines written so far are on the disk."""
        with self._path.open("a") as file:
            os.fsync(file.fileno())

    def go_back_to(self, step: int) -> dict[str, Any]:
        """Drop the lines past `step`; return the totals of the last update that is left.

        Raises:
            ValueError: if the line of update `step` is missing.
        """
        kept = [record for record in self.read() if record["step"] <= step]
        updates = [record for record in kept if "loss" in record]
        last = updates[-1] if updates else {"step": 0, "tokens": 0, "seconds": 0.0}
        if last["step"] != step:
            raise ValueError(f"{self._path} must hold the line of step {step}, got none")
        with atomic_write(self._path) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())
        return {key: last[key] for key in ("step", "tokens", "seconds")}


def without_non_finite(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with null for infinities and NaN, which JSON lacks."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
