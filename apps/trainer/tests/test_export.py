"""Exports: whole folders of files that belong together, and nobody's files lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scratch.bpe import Tokenizer
from scratch.nn import config_from_llama, from_llama_state_dict
from scratch.trainer.commands import ExportSettings
from scratch.trainer.config import ModelSettings
from scratch.trainer.exchange import export as module
from scratch.trainer.exchange import verification
from scratch.trainer.exchange.export import export
from scratch.trainer.runs.run import RunDirectory, build_model
from scratch.trainer.toml import dump_toml

FILES = {
    "README.md",
    "config.json",
    "export.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
CPU = torch.device("cpu")


@pytest.fixture
def make_run(unbroken: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of runs of another shape, with weights that were never trained."""

    def make(**changes: Any) -> Path:
        path = tmp_path / "run-of-a-shape"
        path.mkdir()
        shutil.copy(unbroken / "tokenizer.json", path)
        run = RunDirectory(unbroken)
        sizes = {"context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2}
        model = ModelSettings(**{**sizes, **changes})
        settings = run.settings().model_copy(update={"model": model})
        path.joinpath("config.toml").write_text(dump_toml(settings))
        vocab_size = run.tokenizer().vocab_size
        RunDirectory(path).save_weights(build_model(model, vocab_size=vocab_size))
        return path

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


# --- what is in an export


def test_an_export_holds_the_model_under_the_names_of_llama(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "some" / "where"
    export(ExportSettings(run=unbroken, out=out, verify=False))
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in out.parent.iterdir()] == ["where"]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1

    model = RunDirectory(unbroken).load_model(CPU)
    config = config_from_llama(read(out / "config.json"))
    assert config == model.config
    state = from_llama_state_dict(config, load_file(out / "model.safetensors"))
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    tokenizer = RunDirectory(unbroken).tokenizer()
    again = Tokenizer.from_huggingface(out / "tokenizer.json")
    assert again.vocabulary == tokenizer.vocabulary


def test_every_file_says_the_same_of_where_texts_end(unbroken: Path, tmp_path: Path) -> None:
    export(ExportSettings(run=unbroken, out=tmp_path / "out", verify=False))
    end_of_text = RunDirectory(unbroken).tokenizer().special_tokens["<|endoftext|>"]
    for name in ("config.json", "generation_config.json"):
        entries = read(tmp_path / "out" / name)
        assert entries["bos_token_id"] == entries["eos_token_id"] == end_of_text
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        entries = read(tmp_path / "out" / name)
        assert entries["bos_token"] == entries["eos_token"] == "<|endoftext|>"


@pytest.mark.parametrize(("checkpoint", "step"), [("final", 12), ("latest", 12), (4, 4)])
def test_the_checkpoint_that_is_asked_for_is_exported(
    unbroken: Path, tmp_path: Path, checkpoint: Any, step: int
) -> None:
    out = tmp_path / "out"
    export(ExportSettings(run=unbroken, out=out, checkpoint=checkpoint, verify=False))
    assert read(out / "export.json")["step"] == step
    embedding = RunDirectory(unbroken).load_model(CPU, checkpoint).token_embeddings.weight
    exported = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(exported, embedding)


def test_the_marker_tells_where_the_model_comes_from(unbroken: Path, tmp_path: Path) -> None:
    export(ExportSettings(run=unbroken, out=tmp_path / "out", verify=False))
    marker = read(tmp_path / "out" / "export.json")
    lines = RunDirectory(unbroken).journal.read()
    update = [line for line in lines if "loss" in line][-1]
    evaluation = [line for line in lines if "val_loss" in line][-1]
    assert (marker["run"], marker["step"], marker["tokens"]) == ("run", 12, update["tokens"])
    assert marker["val_loss"] == evaluation["val_loss"]


# --- where it goes


def test_an_earlier_export_is_replaced_as_a_whole(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(ExportSettings(run=unbroken, out=out, checkpoint=4, verify=False))
    first = contents(out)
    export(ExportSettings(run=unbroken, out=out, verify=False))
    second = contents(out)
    assert first["model.safetensors"] != second["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("names", "culprit"),
    [
        (["thesis.txt"], "thesis.txt"),
        (["config.json", "README.md"], "README.md"),  # a model, but none of ours
        ([*FILES, ".git"], ".git"),
    ],
)
def test_a_directory_with_anything_else_in_it_is_left_alone(
    unbroken: Path, tmp_path: Path, names: list[str], culprit: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_text("mine")
    before = contents(out)
    with pytest.raises(ValueError, match=f"must be new, empty or an earlier .*, got {culprit} in"):
        export(ExportSettings(run=unbroken, out=out))
    assert contents(out) == before


def test_a_file_in_the_way_is_left_alone(unbroken: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out must be a directory, got a file"):
        export(ExportSettings(run=unbroken, out=tmp_path / "out"))


def test_the_run_itself_is_no_place_for_an_export(finished: Path) -> None:
    before = set(finished.iterdir())
    with pytest.raises(ValueError, match="must be new, empty or an earlier export"):
        export(ExportSettings(run=finished, out=finished))
    assert set(finished.iterdir()) == before


def test_what_goes_wrong_half_way_leaves_the_earlier_export(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(ExportSettings(run=unbroken, out=out, verify=False))
    before = contents(out)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        export(ExportSettings(run=unbroken, out=out, checkpoint=4))
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- what cannot be exported


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "post"}, r"norm must be 'pre' .*, got 'post' \(--model.norm\)"),
        ({"norm": "none"}, r"norm must be 'pre' .*, got 'none' \(--model.norm\)"),
        ({"position": "none"}, r"position must be 'rope' .*, got 'none' \(--model.position\)"),
        ({"feed_forward": "silu"}, r"got 'silu' \(--model.feed-forward\)"),
        ({"feed_forward": "relu2"}, r"got 'relu2' \(--model.feed-forward\)"),
        ({"logit_cap": 5.0}, r"got 5.0 \(--model.logit-cap\)"),
        ({"sliding_window": 4}, r"only Qwen3, .* \(--model.sliding-window\)"),
    ],
)
def test_what_llama_cannot_express_is_refused_with_the_flag(
    make_run: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = make_run(**changes)
    with pytest.raises(ValueError, match=f"run-of-a-shape cannot be exported: .*{message}"):
        export(ExportSettings(run=run, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_ones_own_pattern_is_refused_with_the_reason(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run()
    tokenizer = RunDirectory(run).tokenizer()
    vocabulary = tokenizer.vocabulary
    Tokenizer(
        vocabulary.tokens, vocabulary.merges, vocabulary.special_tokens, pattern=r"\S+|\s+"
    ).save(run / "tokenizer.json")
    message = "the tokenizer of .*run-of-a-shape cannot be exported: pattern must be a named one"
    with pytest.raises(ValueError, match=message):
        export(ExportSettings(run=run, out=tmp_path / "out"))


def test_without_transformers_an_export_says_that_it_was_not_verified(
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(verification, "find_spec", lambda _: None)
    export(ExportSettings(run=unbroken, out=tmp_path / "out"))
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "not verified"
    assert 'pip install "scratch-trainer[export]" and export again' in shown.err


def test_a_summary_is_printed(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(ExportSettings(run=unbroken, out=tmp_path / "out", verify=False))
    weights = RunDirectory(unbroken).load_model(CPU).state_dict().values()
    parameters = sum(np.prod(weight.shape) for weight in weights)
    assert capsys.readouterr().out == (
        f"{tmp_path / 'out'}: LlamaForCausalLM of {parameters:,} parameters, float32, "
        "weights of step 12\n"
    )
