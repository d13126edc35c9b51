"""`trainer runs`: a list in which no run spoils the others."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from scratch.trainer.cli import main
from scratch.trainer.config import TrainSettings
from scratch.trainer.toml import dump_toml


def make_run(path: Path, *records: dict[str, Any], **changes: Any) -> Path:
    path.mkdir(parents=True)
    settings = TrainSettings(data=Path("data"), out=path, **{"steps": 2000, **changes})
    path.joinpath("config.toml").write_text(dump_toml(settings))
    lines = [json.dumps(record) + "\n" for record in records]
    path.joinpath("metrics.jsonl").write_text("".join(lines))
    return path


UPDATE = {"step": 1000, "tokens": 1_234_567, "seconds": 75.0, "loss": 2.5}
WORSE = {"step": 1000, "tokens": 1_234_567, "seconds": 75.0, "val_loss": 3.75}
BEST = WORSE | {"step": 500, "val_loss": 3.25}
DIVERGED = {"step": 1000, "event": "diverged", "reason": "the loss is far above its lowest"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a directory with a run under way, one that diverged, a new and a damaged one."""
    make_run(tmp_path / "b", BEST, UPDATE, WORSE)
    make_run(tmp_path / "sweep" / "a", UPDATE | {"loss": 6.5e22}, DIVERGED)
    make_run(tmp_path / "c", steps=None, train_seconds=10.0)
    make_run(tmp_path / "a").joinpath("metrics.jsonl").write_text("{\n")
    return tmp_path


def read_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["runs", *arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"runs"}
    return answer["runs"]


def test_the_table_has_a_line_for_each_run_by_name_in_80_columns(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    os.utime(runs / "b" / "metrics.jsonl", (0, datetime.now().timestamp() - 7300))
    assert main(["runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:5])) <= 80
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["a", "unreadable"],
        ["b", "stopped"],
        ["c", "new"],
        ["sweep/a", "diverged"],
    ]
    figures = "b stopped 1k/2k 1.23M 2.500 3.750 3.250 1:15 2 h ago"
    assert lines[2].split() == figures.split()


def test_reasons_stand_below_the_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs)]) == 0
    below = capsys.readouterr().out.splitlines()[5:]
    assert below[0].startswith("a: ")
    assert "metrics.jsonl, line 1 must be JSON" in below[0]
    assert below[1] == "sweep/a: the loss is far above its lowest"


def test_json_has_the_figures(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged, under_way, new, diverged = read_json(capsys, str(runs))
    assert (damaged["name"], damaged["status"]) == ("a", "unreadable")
    assert "line 1" in damaged["reason"]
    assert under_way["path"] == str(runs / "b")
    assert (under_way["step"], under_way["total_steps"], under_way["share"]) == (1000, 2000, 0.5)
    assert (under_way["val_loss"], under_way["best_val_loss"]) == (3.75, 3.25)
    assert datetime.fromisoformat(under_way["written"]).tzinfo is not None
    assert (new["status"], new["step"], new["loss"]) == ("new", 0, None)
    assert (diverged["status"], diverged["reason"]) == ("diverged", DIVERGED["reason"])
    assert diverged["loss"] == 6.5e22


def test_a_run_itself_is_a_list_of_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [run["name"] for run in read_json(capsys, str(runs / "b"))] == ["b"]


def test_where_there_are_no_runs_it_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert out == (
        "no runs in runs; make one with: trainer train --data DATA --out runs/NAME --steps N\n"
    )
    assert read_json(capsys) == []


def test_a_file_is_not_a_place_for_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = runs / "b" / "config.toml"
    assert main(["runs", str(file)]) == 1
    assert capsys.readouterr().err == f"trainer: {file} must be a directory, got a file\n"


def test_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "[red]x[/red]")
    assert main(["runs", str(tmp_path)]) == 0
    assert "[red]x[/red]" in capsys.readouterr().out
