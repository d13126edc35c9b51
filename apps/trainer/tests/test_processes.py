from pathlib import Path
from typing import Any

import pytest

from scratch.trainer.sweep.processes import start_training


def test_a_process_writes_into_its_log_and_shares_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("scratch.trainer.sweep.processes._cores", lambda: 8)
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("subprocess.Popen", lambda _, **kept: shown.append(kept))
    start_training(["presets"], tmp_path / "log.txt", 3)
    start_training(["presets"], tmp_path / "log.txt", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    start_training(["presets"], tmp_path / "log.txt", 3)
    assert [kept["env"].get("OMP_NUM_THREADS") for kept in shown] == ["2", None, "5"]


def test_a_process_is_the_command_trainer(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    assert start_training(["presets", "no-such"], log, 1).wait() == 1
    assert log.read_text().startswith("before\ntrainer: unknown preset no-such")
