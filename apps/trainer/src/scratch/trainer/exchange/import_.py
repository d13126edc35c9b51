"""`trainer import`: a Llama or Qwen3 that others wrote, as a run: to evaluate, generate, train on.

The run has no checkpoints, and a journal of one line that says where it comes from.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from scratch.nn import TransformerConfig, config_from_llama, from_llama_state_dict

from ..commands import ImportSettings
from ..config import ModelSettings, TrainSettings
from ..device import describe_environment
from ..runs.run import RunDirectory, build_model
from ..toml import dump_toml
from .folders import appearing
from .foreign_tokenizer import read_tokenizer
from .foreign_weights import read_weights

# A run must say where its data is; that of this one is not known.
_NO_DATA = Path("imported")


def import_(settings: ImportSettings) -> None:
    """Write the directory of the run.

    Raises:
        ValueError: if the source is not a Llama or Qwen3 that a `TransformerLM` can be, its
            tokenizer is not one that `scratch.bpe` has, they do not fit together, or there is
            something in the directory of the run already.
        OSError: if a file cannot be read or written.
    """
    source, out = settings.source, settings.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} must be new or empty, got something in it; choose another --out")
    entries = _read_config(source)
    config = _config(source, entries)
    # First the weights: what they are is certain, while a config.json may claim any size.
    weights = read_weights(source)
    try:
        state = from_llama_state_dict(config, weights)
    except ValueError as error:
        raise ValueError(f"{source} must hold the weights of its config.json: {error}") from None
    tokenizer = read_tokenizer(source, entries, rows=config.vocab_size)
    model = build_model(_model_settings(config), vocab_size=config.vocab_size)
    model.load_state_dict(state)

    run_settings = TrainSettings(data=_NO_DATA, out=out, model=_model_settings(config))
    environment = {
        **describe_environment(torch.device("cpu")),
        "imported": {"name": source.resolve().name, "model_type": entries["model_type"]},
    }
    config_file = dump_toml(run_settings, leave_out=frozenset({"resume"}))
    event = {"step": 0, "event": "finished", "reason": f"imported from {source.resolve().name}"}
    with appearing(out) as folder:
        run = RunDirectory(folder)
        tokenizer.save(folder / "tokenizer.json")
        folder.joinpath("environment.json").write_text(json.dumps(environment, indent=2))
        folder.joinpath("config.toml").write_text(config_file, encoding="utf-8")
        run.save_weights(model)
        run.journal.append([event])
    parameters = sum(weight.numel() for weight in model.parameters())
    print(
        f"{out}: {entries['model_type']} of {parameters:,} parameters, "
        f"{config.vocab_size:,} tokens, a context of {config.context_length:,}"
    )


def _read_config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{source} must be a directory with config.json, safetensors and tokenizer.json, "
            "got no config.json in it"
        )
    try:
        entries = dict(json.loads(path.read_bytes()))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold a JSON object: {error}") from None
    if entries.get("quantization_config"):
        raise ValueError(
            f"{path} must be of weights in floating point, got a quantization_config; "
            "import the model before it was quantized"
        )
    return entries


def _config(source: Path, entries: dict[str, Any]) -> TransformerConfig:
    try:
        return config_from_llama(entries)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source / 'config.json'}: {error}") from None


def _model_settings(config: TransformerConfig) -> ModelSettings:
    values = asdict(config)
    del values["vocab_size"]
    return ModelSettings.model_validate(values)
