"""Looking into the directory of a run, without torch and without changing it."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from scratch.trainer.config import TrainSettings
from scratch.trainer.runs.run_files import RunFiles, State, find_runs, read_journal
from scratch.trainer.toml import dump_toml

UPDATE = {"step": 1, "tokens": 8, "seconds": 0.5, "loss": 2.0}


def make_run(path: Path, *records: dict[str, Any]) -> RunFiles:
    path.mkdir(parents=True)
    settings = TrainSettings(data=Path("data"), out=path, steps=4)
    path.joinpath("config.toml").write_text(dump_toml(settings))
    lines = [json.dumps(record) + "\n" for record in records]
    path.joinpath("metrics.jsonl").write_text("".join(lines))
    return RunFiles(path)


def event(kind: str, reason: str = "") -> dict[str, Any]:
    return {"step": 1, "event": kind, "reason": reason}


def test_a_run_without_updates_is_new(tmp_path: Path) -> None:
    assert make_run(tmp_path / "a").state() == State("new")


def test_a_run_that_somebody_killed_is_stopped(tmp_path: Path) -> None:
    assert make_run(tmp_path / "a", UPDATE).state() == State("stopped")


def test_a_run_with_weights_is_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", UPDATE)
    run.path.joinpath("model.safetensors").touch()
    assert run.state() == State("finished")


@pytest.mark.parametrize("kind", ["stopped", "diverged", "failed", "finished"])
def test_the_last_event_tells_how_a_run_stands(tmp_path: Path, kind: Any) -> None:
    run = make_run(tmp_path / "a", UPDATE, event("stopped"), UPDATE, event(kind, "because"))
    run.path.joinpath("model.safetensors").touch()
    assert run.state() == State(kind, "because")


def test_an_evaluation_after_an_event_does_not_undo_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", UPDATE, event("stopped", "SIGTERM"), {"step": 1, "val_loss": 1})
    assert run.state() == State("stopped", "SIGTERM")


def test_a_run_that_went_on_after_an_event_has_left_it_behind(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", UPDATE, event("diverged", "too fast"), UPDATE | {"step": 2})
    assert run.state() == State("stopped")


def test_an_event_of_another_kind_says_nothing(tmp_path: Path) -> None:
    assert make_run(tmp_path / "a", UPDATE, event("applause")).state() == State("stopped")


def test_a_run_that_a_trainer_holds_is_running_whatever_its_files_say(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", UPDATE, event("finished"))
    with FileLock(run.path / ".lock"):
        assert run.state() == State("running")
    assert run.state() == State("finished")


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS])
def test_of_a_run_that_cannot_be_locked_only_the_files_tell(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "a", UPDATE, event("finished"))
    (run.path / ".lock").touch()

    def refuse(lock: FileLock, timeout: float) -> None:
        raise OSError(reason, f"{lock.lock_file} cannot be opened, asked for {timeout} s")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert run.state() == State("finished")


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", UPDATE)
    before = sorted(run.path.iterdir())
    run.state()
    assert sorted(run.path.iterdir()) == before


def test_a_directory_without_config_is_no_run_and_the_error_tells_how_to_make_one(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"no config\.toml.*trainer train --data"):
        RunFiles(tmp_path).settings()


def test_parameters_are_counted_in_the_file_of_the_weights(finished: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(finished / "model.safetensors")
    assert RunFiles(finished).parameters() == sum(tensor.numel() for tensor in tensors.values())


def test_parameters_are_unknown_before_there_are_weights(tmp_path: Path) -> None:
    assert make_run(tmp_path / "a").parameters() is None


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 40])
def test_weights_of_another_kind_are_named(tmp_path: Path, content: bytes) -> None:
    run = make_run(tmp_path / "a")
    run.path.joinpath("model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors must be a file of safetensors"):
        run.parameters()


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_environment_is_named(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "a")
    run.path.joinpath("environment.json").write_text(content)
    with pytest.raises(ValueError, match=r"environment\.json must"):
        run.environment()


def test_the_environment_of_a_run_without_one_is_empty(tmp_path: Path) -> None:
    assert make_run(tmp_path / "a").environment() == {}


def test_a_torn_last_line_of_a_journal_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(UPDATE) + '\n{"step": 2, "lo')
    assert read_journal(path) == [UPDATE]


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}'])
def test_a_damaged_line_of_a_journal_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(UPDATE) + f"\n{line}\n")
    with pytest.raises(ValueError, match="line 2 must"):
        read_journal(path)


def test_runs_are_found_at_any_depth_in_order_and_not_inside_of_runs(tmp_path: Path) -> None:
    for name in ("b", "sweep/two", "sweep/one", "b/inside"):
        make_run(tmp_path / name)
    tmp_path.joinpath("empty").mkdir()
    assert find_runs(tmp_path) == [tmp_path / n for n in ("b", "sweep/one", "sweep/two")]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]
    assert find_runs(tmp_path / "nowhere") == []


def test_reports_and_lists_do_without_torch() -> None:
    code = (
        "import sys, scratch.trainer.report.report, scratch.trainer.runs.listing; "
        "sys.exit(bool({'torch', 'plotly.graph_objects', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
