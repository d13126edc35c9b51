"""The presets: complete, in the bounds of the settings, and what the experiments ask for."""

from pathlib import Path

import pytest

from scratch.trainer.cli import main
from scratch.trainer.config import TrainSettings
from scratch.trainer.presets import preset_names, read_preset
from scratch.trainer.runs.run import build_model
from scratch.trainer.training.pace import total_steps

every_preset = pytest.mark.parametrize("name", preset_names())


def settings(name: str) -> TrainSettings:
    return TrainSettings.model_validate({"data": Path("d"), "out": Path("o"), **read_preset(name)})


def test_the_experiments_have_their_presets() -> None:
    names = {"tinystories", "tinystories-cpu", "owt", "owt-h100-90min"}
    assert names <= set(preset_names())


@every_preset
def test_a_preset_has_one_length_and_no_place(name: str) -> None:
    values = read_preset(name)
    total_steps(settings(name))
    assert not values.keys() & {"data", "out", "device"}


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("tinystories", 327_680_000), ("tinystories-cpu", 40_960_000), ("owt", 327_680_000)],
)
def test_the_courses_models_see_so_many_tokens_in_whole_updates(name: str, tokens: int) -> None:
    chosen = settings(name)
    steps = total_steps(chosen)
    assert steps is not None
    assert steps * chosen.batch_size * chosen.model.context_length == tokens


@pytest.mark.parametrize("name", ["tinystories", "tinystories-cpu", "owt"])
def test_the_courses_models_have_its_shape(name: str) -> None:
    model = settings(name).model
    assert (model.d_model, model.d_ff, model.num_layers, model.num_heads) == (512, 1344, 4, 16)
    assert model.context_length == 256


def test_the_model_of_tinystories_has_the_parameters_that_its_preset_tells() -> None:
    model = build_model(settings("tinystories").model, vocab_size=10_000)
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}" == "22.7"


def test_presets_are_listed_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(len(line.split()) > 5 for line in lines)


def test_a_preset_is_shown_as_the_file_that_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["presets", "owt"]) == 0
    file = tmp_path / "copy.toml"
    file.write_text(capsys.readouterr().out)
    from scratch.trainer.toml import read_toml

    assert read_toml(file, TrainSettings) == read_preset("owt")


def test_an_unknown_preset_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["presets", "qqq"]) == 1
    assert "unknown preset qqq; known are owt, " in capsys.readouterr().err
