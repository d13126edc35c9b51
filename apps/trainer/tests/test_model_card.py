"""Model cards: a front matter that others parse, and the figures of the run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scratch.nn import llama_config
from scratch.trainer.exchange.model_card import model_card
from scratch.trainer.exchange.provenance import Provenance
from scratch.trainer.runs.run import RunDirectory


def card_of(run: Path, name: str = "tales", **choices: Any) -> tuple[dict[str, Any], str]:
    """Return the front matter and the text of the card of a run."""
    directory = RunDirectory(run)
    model = directory.load_model(torch.device("cpu"))
    origin = Provenance.of(directory, **{"checkpoint": "final", **choices})
    card = model_card(name, model, llama_config(model.config), origin)
    empty, front, text = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front), text


def test_the_front_matter_says_what_it_is_and_how_good(unbroken: Path) -> None:
    front, _ = card_of(unbroken)
    evaluation = [line for line in RunDirectory(unbroken).journal.read() if "val_loss" in line][-1]
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-generation"
    assert front["tags"] == ["scratch-trainer", "llama"]
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert (model["name"], result["dataset"]["name"]) == ("tales", "tales")
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    for key, value in found.items():
        assert value == pytest.approx(evaluation[f"val_{key}"], rel=1e-5)
    assert {"loss", "perplexity"} <= found.keys()


@pytest.mark.parametrize("name", ['say "hi": #1', "naïve 🙃", "- [x]"])
def test_a_name_may_be_anything(unbroken: Path, name: str) -> None:
    front, text = card_of(unbroken, name)
    assert front["model-index"][0]["name"] == name
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert f"# {name}\n" in text


def test_the_text_tells_figures_shape_training_and_data(unbroken: Path) -> None:
    _, text = card_of(unbroken)
    lines = RunDirectory(unbroken).journal.read()
    evaluation = [line for line in lines if "val_loss" in line][-1]
    update = [line for line in lines if "loss" in line][-1]
    manifest = json.loads((unbroken / "data.json").read_bytes())
    assert f"| loss, nats per token | {evaluation['val_loss']:.4f} |" in text
    assert "| context | 16 tokens |" in text
    assert f"| tokens | {update['tokens']:,} |" in text
    assert f"| train | {manifest['splits']['train']['documents']} |" in text
    assert "`tales.txt`" in text
    assert "lr = 0.01" in text
    assert str(unbroken) not in text  # where it was on this machine is nobody's business


def test_another_checkpoint_has_its_own_figures(unbroken: Path) -> None:
    front, text = card_of(unbroken, checkpoint=4)
    evaluations = RunDirectory(unbroken).journal.read()
    has_figures = any(line["step"] == 4 and "val_loss" in line for line in evaluations)
    assert ("model-index" in front) == has_figures
    assert "weights of step 4" in text


def test_a_run_that_tells_nothing_has_a_card_without_figures(finished: Path) -> None:
    (finished / "metrics.jsonl").unlink()
    (finished / "data.json").unlink()
    (finished / "environment.json").unlink()
    shutil.rmtree(finished / "checkpoints")
    front, text = card_of(finished)
    assert "model-index" not in front
    assert "final weights" in text
    assert "imported" not in text
    assert "In training each document came after `<|endoftext|>`" in text
    assert "## Data" not in text
    assert "## On held-out text" not in text


def test_a_run_that_went_on_from_another_says_so(finished: Path) -> None:
    assert "trained from scratch" in card_of(finished)[1]
    config = finished / "config.toml"
    config.write_text(f'init_from = "/some/where/first"\n{config.read_text()}')
    assert "trained on from the model of `first`" in card_of(finished)[1]
