"""The figures of a run, from its files."""

import json
from pathlib import Path
from typing import Any

import pytest

from scratch.trainer.config import ModelSettings, TrainSettings
from scratch.trainer.runs.figures import planned_steps, read_figures, run_names
from scratch.trainer.runs.run_files import RunFiles
from scratch.trainer.toml import dump_toml


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(data=Path("data"), out=Path("out"), **{"steps": 4, **changes})


def make_run(path: Path, *records: dict[str, Any], **changes: Any) -> RunFiles:
    path.mkdir(parents=True)
    path.joinpath("config.toml").write_text(dump_toml(settings(**changes)))
    lines = [json.dumps(record) + "\n" for record in records]
    path.joinpath("metrics.jsonl").write_text("".join(lines))
    return RunFiles(path)


def update(step: int, loss: float | None) -> dict[str, Any]:
    return {"step": step, "tokens": 100 * step, "seconds": 0.5 * step, "loss": loss}


def evaluation(step: int, loss: float | None) -> dict[str, Any]:
    values = {"val_loss": loss, "val_perplexity": 9.0, "val_bits_per_byte": 1.5}
    return {"step": step, "tokens": 100 * step, "seconds": 0.5 * step, **values}


def test_figures_are_of_the_last_lines_and_the_best_evaluation(tmp_path: Path) -> None:
    journal = (update(1, 5.0), evaluation(1, 4.0), update(2, 3.0), evaluation(2, 4.5))
    figures = read_figures(make_run(tmp_path / "a", *journal))
    assert (figures.step, figures.total_steps, figures.share) == (2, 4, 0.5)
    assert (figures.tokens, figures.seconds, figures.tokens_per_second) == (200, 1.0, 200.0)
    assert (figures.loss, figures.val_loss) == (3.0, 4.5)
    assert (figures.val_perplexity, figures.val_bits_per_byte) == (9.0, 1.5)
    assert (figures.best_val_loss, figures.best_step) == (4.0, 1)


def test_what_is_not_finite_is_not_the_best(tmp_path: Path) -> None:
    journal = (update(1, None), evaluation(1, 4.0), evaluation(2, None))
    figures = read_figures(make_run(tmp_path / "a", *journal))
    assert (figures.loss, figures.val_loss, figures.best_val_loss) == (None, None, 4.0)


def test_a_run_without_updates_has_no_figures_yet(tmp_path: Path) -> None:
    figures = read_figures(make_run(tmp_path / "a"))
    assert (figures.status, figures.step, figures.tokens, figures.share) == ("new", 0, 0, 0.0)
    assert figures.loss is figures.best_val_loss is figures.tokens_per_second is None


def test_the_share_of_a_run_by_the_clock_is_of_its_time(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", update(3, 1.0), steps=None, train_seconds=6.0)
    assert (read_figures(run).total_steps, read_figures(run).share) == (None, 0.25)


def test_the_updates_of_a_number_of_tokens_are_rounded_up() -> None:
    model = ModelSettings(context_length=10)
    made = settings(steps=None, train_tokens=101, batch_size=5, model=model)
    assert planned_steps(made) == 3


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a"], ["a"]),
        (["runs/a", "runs/b"], ["a", "b"]),
        (["runs/x/a", "runs/y/a"], ["x/a", "y/a"]),
        (["runs/a", "runs/deep/b"], ["a", "deep/b"]),
    ],
)
def test_names_leave_out_the_folders_that_all_are_in(paths: list[str], names: list[str]) -> None:
    assert run_names([Path(path) for path in paths]) == names


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    run.path.joinpath("config.toml").write_text("stepps = 1")
    with pytest.raises(ValueError, match="stepps; did you mean steps"):
        read_figures(run)


def test_a_real_run_has_all_figures(unbroken: Path) -> None:
    figures = read_figures(RunFiles(unbroken))
    assert (figures.status, figures.step, figures.share) == ("finished", 12, 1.0)
    assert figures.loss is not None
    assert figures.best_val_loss is not None
    assert figures.best_val_loss <= (figures.val_loss or 0.0)
    assert figures.parameters is not None
