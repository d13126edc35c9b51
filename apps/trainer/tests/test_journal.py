"""The journal: every line counts, and a torn one does not."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from scratch.trainer.runs.journal import Journal

UPDATES = [
    {"step": step, "tokens": 64 * step, "seconds": step / 4, "loss": 5.0 - step}
    for step in range(1, 6)
]
HELD_OUT = {"step": 3, "tokens": 192, "seconds": 0.75, "val_loss": 2.5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def journal(path: Path) -> Journal:
    """Return a journal of five updates, with an evaluation after the third."""
    journal = Journal(path)
    journal.append([*UPDATES[:3], HELD_OUT, *UPDATES[3:]])
    return journal


def test_a_journal_without_file_is_empty(path: Path) -> None:
    assert Journal(path).read() == []


def test_lines_come_back_in_order(journal: Journal) -> None:
    journal.append([{"step": 6, "loss": 1e-300}])
    journal.append([])
    assert journal.read() == [*UPDATES[:3], HELD_OUT, *UPDATES[3:], {"step": 6, "loss": 1e-300}]


def test_each_line_is_one_json_object(journal: Journal, path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == journal.read()
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_lacks_becomes_null(path: Path, value: float) -> None:
    Journal(path).append([{"step": 1, "loss": value}])
    assert path.read_text() == '{"step": 1, "loss": null}\n'


@pytest.mark.parametrize("torn", [b"{", b'{"step": 6, "loss": 1.0}', "é".encode()[:1]])
def test_a_torn_last_line_does_not_count(journal: Journal, path: Path, torn: bytes) -> None:
    whole = journal.read()
    with path.open("ab") as file:
        file.write(torn)
    assert journal.read() == whole


@pytest.mark.parametrize("damage", [b"", b'{"step": 2,', b"\xff\xfe"])
def test_another_damaged_line_is_named(journal: Journal, path: Path, damage: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 must be JSON"):
        journal.read()


@pytest.mark.parametrize("damage", [b"{}", b"3", b"null", b'{"step": "two"}'])
def test_a_line_that_is_no_record_is_named(journal: Journal, path: Path, damage: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        journal.go_back_to(4)


@pytest.mark.parametrize(
    ("step", "kept"), [(2, UPDATES[:2]), (3, [*UPDATES[:3], HELD_OUT]), (0, [])]
)
def test_going_back_drops_the_lines_past_a_step(
    journal: Journal, step: int, kept: list[dict[str, Any]]
) -> None:
    totals = journal.go_back_to(step)
    assert journal.read() == kept
    assert (totals["step"], totals["tokens"], totals["seconds"]) == (step, 64 * step, step / 4)


def test_going_back_mends_a_torn_line(journal: Journal, path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"step": 6, "lo')
    journal.go_back_to(5)
    journal.append([{"step": 6, "loss": 1.0}])
    assert journal.read()[-1] == {"step": 6, "loss": 1.0}


@pytest.mark.parametrize("before", [0, 5])
def test_what_is_appended_takes_the_place_of_a_torn_line(path: Path, before: int) -> None:
    journal = Journal(path)
    journal.append(UPDATES[:before])
    with path.open("ab") as file:
        file.write(b'{"step": 6, "lo')
    journal.end(before, "failed", "the disk was full")
    end = {"step": before, "event": "failed", "reason": "the disk was full"}
    assert journal.read() == [*UPDATES[:before], end]


def test_a_journal_that_lacks_the_step_is_refused(journal: Journal) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl must hold the line of step 9, got none"):
        journal.go_back_to(9)


def test_a_journal_that_is_refused_is_left_as_it_is(journal: Journal, path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))  # without step 2
    before = path.read_bytes()
    with pytest.raises(ValueError, match="must hold the line of step 2"):
        journal.go_back_to(2)
    assert path.read_bytes() == before


def test_going_back_to_the_start_needs_no_journal(path: Path) -> None:
    assert Journal(path).go_back_to(0) == {"step": 0, "tokens": 0, "seconds": 0.0}
    assert path.read_bytes() == b""


def test_held_out_losses_are_read_once_and_kept_up_to_date(journal: Journal, path: Path) -> None:
    assert journal.held_out_losses() == {3: 2.5}
    journal.append([{"step": 5, "val_loss": 1.5}, {"step": 6, "val_loss": math.nan}])
    journal.read = pytest.fail  # the file may have become long
    assert journal.held_out_losses() == {3: 2.5, 5: 1.5}
    del journal.read
    journal.go_back_to(4)
    assert journal.held_out_losses() == Journal(path).held_out_losses() == {3: 2.5}
