"""`trainer export`: a trained model as a folder that `transformers` loads, and others like it.

config.json             of a Llama, or of a Qwen3 if queries and keys are normed
model.safetensors       the weights under the names that belong to it
generation_config.json  where texts begin and end
tokenizer.json, tokenizer_config.json, special_tokens_map.json
README.md               the model card, with the figures of the run
export.json             that this is an export, and of what
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from scratch.bpe import Tokenizer
from scratch.nn import TransformerLM, llama_config, to_llama_state_dict

from ..commands import ExportSettings
from ..data.corpus import END_OF_TEXT
from ..runs.run import RunDirectory
from ..watching.display import say
from .folders import appearing
from .model_card import model_card
from .provenance import Provenance
from .verification import verify

_MARKER = "export.json"
_FILES = {
    "config.json",
    "model.safetensors",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "README.md",
    _MARKER,
}


def export(settings: ExportSettings) -> None:
    """Write the folder, and see that `transformers` computes the same from it.

    Raises:
        ValueError: if neither Llama nor Qwen3 can express the model, naming the flag; the tokenizer
            cannot be exchanged; the directory holds something else; or `transformers` disagrees.
        OSError: if a file cannot be read or written.
    """
    _check_replaceable(settings.out)
    run = RunDirectory(settings.run)
    model = run.load_model(torch.device("cpu"), settings.checkpoint).eval()
    tokenizer = run.tokenizer()
    origin = Provenance.of(run, settings.checkpoint)
    with appearing(settings.out) as folder:
        entries = _write_model(folder, model, tokenizer, run.path)
        _write_tokenizer(folder, tokenizer, model.config.context_length, run.path)
        card = model_card(settings.out.resolve().name, model, entries, origin)
        folder.joinpath("README.md").write_text(card, encoding="utf-8")
        marker = {"format": "scratch-export", "version": 1, **origin.summary()}
        _write_json(folder / _MARKER, marker)
    parameters = sum(weight.numel() for weight in model.parameters())
    kind = entries["architectures"][0]
    print(f"{settings.out}: {kind} of {parameters:,} parameters, float32, {origin.which}")
    if settings.verify:
        verification = verify(settings.out, model, tokenizer, origin.held_out_tokens(model))
        print(verification or "not verified")
        if verification is None:
            say(
                "transformers is not installed; to verify, "
                'pip install "scratch-trainer[export]" and export again'
            )


def _check_replaceable(out: Path) -> None:
    """Refuse to write over anything but an earlier export."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} must be a directory, got a file; choose another --out")
    names = {path.name for path in out.iterdir()}
    if names and (_MARKER not in names or names - _FILES):
        other = min(names - _FILES, default=min(names))
        raise ValueError(
            f"{out} must be new, empty or an earlier export and nothing else, got {other} in it; "
            "choose another --out"
        )


def _write_model(
    folder: Path, model: TransformerLM, tokenizer: Tokenizer, run: Path
) -> dict[str, Any]:
    end_of_text = tokenizer.special_tokens[END_OF_TEXT]
    try:
        entries = llama_config(model.config, end_of_text_id=end_of_text)
    except ValueError as error:  # which begins with the name of the option
        flag = str(error).split()[0].replace("_", "-")
        raise ValueError(f"{run} cannot be exported: {error} (--model.{flag})") from None
    entries["bos_token_id"] = end_of_text
    ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": end_of_text}
    _write_json(folder / "config.json", entries)
    _write_json(folder / "generation_config.json", ends)
    weights = {name: weight.detach() for name, weight in to_llama_state_dict(model).items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    # It makes a file that nobody else may read.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    return entries


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int, run: Path) -> None:
    try:
        tokenizer.to_huggingface(folder / "tokenizer.json")
    except ValueError as error:
        raise ValueError(f"the tokenizer of {run} cannot be exported: {error}") from None
    ends = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    _write_json(folder / "special_tokens_map.json", ends)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **ends,
            "model_max_length": context_length,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",  # so that texts of different lengths can be continued together
        },
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
