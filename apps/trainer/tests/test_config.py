"""Settings: what is allowed, how a file is read, and that they are those of the libraries."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch.nn import TransformerConfig
from scratch.trainer.commands import GenerateSettings, PrepareSettings
from scratch.trainer.config import ModelSettings, OptimizerSettings, TrainSettings
from scratch.trainer.fields import Settings
from scratch.trainer.toml import dump_toml, load_toml

FRACTIONS = st.floats(0, 0.99)


def load(content: str | bytes, tmp_path: Path, kind: type[Settings] = TrainSettings) -> Settings:
    path = tmp_path / "file.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_toml(path, kind, placeholders={"data": Path("d"), "out": Path("o")})


def test_model_settings_have_the_fields_and_types_of_the_models_configuration() -> None:
    hints = get_type_hints(TransformerConfig)
    fields = {field.name for field in dataclasses.fields(TransformerConfig)} - {"vocab_size"}
    assert set(ModelSettings.model_fields) == fields
    for name in fields - {"d_ff"}:
        assert ModelSettings.model_fields[name].annotation == hints[name], name
    assert ModelSettings().d_ff is None


def test_model_settings_have_the_defaults_of_the_models_configuration() -> None:
    with_default = [
        field
        for field in dataclasses.fields(TransformerConfig)
        if field.default is not dataclasses.MISSING
    ]
    assert len(with_default) >= 5
    for field in with_default:
        assert getattr(ModelSettings(), field.name) == field.default, field.name


def test_flags_and_files_are_read_without_importing_torch() -> None:
    modules = "scratch.trainer.cli, scratch.trainer.config"
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert answer.stdout.strip() == b"False"


@given(
    settings=st.builds(
        TrainSettings,
        data=st.sampled_from([Path("data"), Path("/a b/'c'\\\"d"), Path("δ")]),
        out=st.just(Path("run")),
        config=st.none(),
        resume=st.just(False),
        steps=st.none() | st.integers(1, 10**9),
        train_seconds=st.none() | st.floats(0.001, 1e9),
        micro_batch_size=st.none() | st.integers(1, 64),
        seed=st.integers(0, 2**63 - 1),
        device=st.sampled_from(["auto", "cuda:1"]),
        model=st.builds(
            ModelSettings,
            d_ff=st.none() | st.integers(1, 999),
            norm=st.sampled_from(["pre", "post", "none"]),
            tie_embeddings=st.booleans(),
        ),
        optimizer=st.builds(
            OptimizerSettings,
            lr=st.floats(0, 1, exclude_max=True),
            eps=st.floats(1e-30, 1),
            beta1=FRACTIONS,
            beta2=FRACTIONS,
            warmup_fraction=FRACTIONS,
            floor_fraction=FRACTIONS,
            weight_decay=FRACTIONS,
            max_grad_norm=st.floats(1e-9, 1e9),
        ),
    )
)
def test_settings_survive_a_toml_file(
    settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.toml"
    path.write_text(dump_toml(settings), encoding="utf-8")
    assert load_toml(path, TrainSettings) == settings


def test_a_file_may_leave_everything_to_the_defaults(tmp_path: Path) -> None:
    assert load("", tmp_path) == TrainSettings(data=Path("d"), out=Path("o"))


def test_a_toml_file_leaves_out_what_it_is_told_to() -> None:
    text = dump_toml(
        TrainSettings(data=Path("d"), out=Path("o")), leave_out=frozenset({"out", "resume"})
    )
    assert "data" in text
    assert "out =" not in text
    assert "resume" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stepz = 3", r"file\.toml: unknown key stepz; did you mean steps\?"),
        ("batchsize = 3", r"unknown key batchsize; did you mean batch_size\?"),
        ("[model]\nd_modle = 3", r"unknown key model\.d_modle; did you mean d_model\?"),
        ("[modell]\nd_model = 3", r"unknown key modell; did you mean model\?"),
        ("[optimizer]\nqqq = 3", r"unknown key optimizer\.qqq; known are optimizer\.lr, "),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    content: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load(content, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps = 0", r"file\.toml: steps must be at least 1, got 0$"),
        ("steps = 1.5", r"steps must be a whole number, got 1\.5$"),
        ("steps = 'many'", r"steps must be a whole number, got 'many'$"),
        ("out = 3", r"out must be a path, got 3$"),
        ("model = 3", r"model must be a table, got 3$"),
        ("[model]\nnorm = 'batch'", r"model\.norm must be 'pre', 'post' or 'none', got 'batch'$"),
        ("[model]\nsliding_window = 0", r"model\.sliding_window must be at least 1, got 0$"),
        ("[model]\ntie_embeddings = 'x'", r"tie_embeddings must be true or false, got 'x'$"),
        ("[optimizer]\nlr = -1", r"optimizer\.lr must be at least 0, got -1$"),
        ("[optimizer]\nlr = nan", r"optimizer\.lr must be a finite number, got nan$"),
        ("[optimizer]\nmuon_lr = 0.0", r"optimizer\.muon_lr must be greater than 0, got 0\.0$"),
        ("[optimizer]\nbeta1 = 1", r"optimizer\.beta1 must be less than 1, got 1$"),
        ("[optimizer]\ndecay_fraction = 2", r"decay_fraction must be at most 1, got 2$"),
        ("micro_batch_size = 0", r"micro_batch_size must be at least 1 or 'auto', got 0$"),
        ("micro_batch_size = 'x'", r"micro_batch_size must be a whole number or 'auto', got 'x'$"),
        (
            "trackers = ['x', 'y']",
            r"trackers must be 'tensorboard', .* or 'trackio', got 'x'$",
        ),
        ("trackers = 3", r"trackers must be a list, got 3$"),
    ],
)
def test_a_bad_value_is_named(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(content, tmp_path)


@pytest.mark.parametrize("content", ["steps = ", "steps 3", b"\xff\xfe", "a = 1\na = 2"])
def test_what_is_not_toml_is_refused(content: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"file\.toml must be a TOML file: "):
        load(content, tmp_path)


def test_a_setting_without_default_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text("out = 'run'")
    with pytest.raises(ValueError, match=r"file\.toml: data must be given$"):
        load_toml(path, TrainSettings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ModelSettings().d_model = 3


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (PrepareSettings, {"files": (), "out": Path("o"), "vocab_size": 256}),
        (PrepareSettings, {"files": (), "out": Path("o"), "validation_fraction": 0.6}),
        (GenerateSettings, {"run": Path("r"), "top_p": 0.0}),
        (GenerateSettings, {"run": Path("r"), "temperature": -1.0}),
        (GenerateSettings, {"run": Path("r"), "max_new_tokens": -1}),
    ],
)
def test_values_out_of_range_are_refused(kind: type[Settings], values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{list(values)[-1]}\n"):
        kind.model_validate(values)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_setting_is_a_finite_number(value: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        OptimizerSettings(lr=value)
