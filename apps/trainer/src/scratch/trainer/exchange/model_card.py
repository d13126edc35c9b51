"""The model card of an export: what the model is, how good, how it came about, how to load it."""

import json
from collections.abc import Iterable
from typing import Any

from scratch.nn import TransformerLM

from ..data.corpus import END_OF_TEXT
from ..toml import dump_toml
from .provenance import Provenance

_FIGURES = {
    "val_loss": ("loss, nats per token", "loss"),
    "val_perplexity": ("perplexity", "perplexity"),
    "val_bits_per_byte": ("bits per byte", "bits_per_byte"),
}


def model_card(name: str, model: TransformerLM, entries: dict[str, Any], origin: Provenance) -> str:
    """Return the card as Markdown after a front matter of YAML.

    Args:
        name: of the model.
        model: the model.
        entries: its config.json.
        origin: where it comes from.
    """
    parts = [
        _front_matter(name, entries, origin),
        f"# {name}\n",
        _introduction(model, entries, origin),
        _usage(name, model, origin),
        _figures(origin),
        _shape(model),
        _training(origin),
        _data(origin),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(name: str, entries: dict[str, Any], origin: Provenance) -> str:
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"tags: {json.dumps(['scratch-trainer', entries['model_type']])}",
    ]
    if origin.figures:
        data = _quoted(origin.settings.data.name or "data")
        lines += [
            "model-index:",
            f"- name: {_quoted(name)}",
            "  results:",
            "  - task: {type: text-generation}",
            f"    dataset: {{name: {data}, type: {data}, split: validation}}",
            "    metrics:",
        ]
        for key, value in origin.figures.items():
            label, kind = _FIGURES[key]
            lines.append(f"    - {{type: {kind}, name: {_quoted(label)}, value: {value:.6g}}}")
    return "\n".join([*lines, "---", ""])


def _introduction(model: TransformerLM, entries: dict[str, Any], origin: Provenance) -> str:
    parameters = sum(weight.numel() for weight in model.parameters())
    kind = entries["architectures"][0]
    if origin.is_imported:
        history = "It was imported, not trained, by scratch-trainer."
    else:
        before = origin.settings.init_from
        start = "from scratch" if before is None else f"on from the model of `{before.name}`"
        history = (
            f"It was trained {start} by scratch-trainer, as the run `{origin.name}`;\n"
            f"these are its {origin.which}. It continues text of the kind that it was trained on, "
            "and has not been\ntaught to answer."
        )
    return f"A language model of {parameters:,} parameters, in the form of `{kind}`.\n{history}\n"


def _usage(name: str, model: TransformerLM, origin: Provenance) -> str:
    context = model.config.context_length
    if origin.is_imported:  # of whose training nothing is known
        start = f"`{END_OF_TEXT}` is `bos_token` and `eos_token` in one."
    else:
        start = (
            f"In training each document came after `{END_OF_TEXT}`, which is `bos_token` and "
            "`eos_token` in one:\na prompt should begin with it."
        )
    return f"""## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({_quoted(name)})
model = AutoModelForCausalLM.from_pretrained({_quoted(name)})
prompt = tokenizer(tokenizer.bos_token + "Once upon a time", return_tensors="pt")
ids = model.generate(**prompt, do_sample=True, temperature=0.8, max_new_tokens={context // 2})
print(tokenizer.decode(ids[0], skip_special_tokens=True))
```

{start} Prompt and continuation together have room for {context:,} tokens.
"""


def _figures(origin: Provenance) -> str:
    if not origin.figures:
        return ""
    rows = ((_FIGURES[key][0], f"{value:.4f}") for key, value in origin.figures.items())
    return f"## On held-out text\n\n{_table(('figure', 'value'), rows)}"


def _shape(model: TransformerLM) -> str:
    config = model.config
    rows = {
        "vocabulary": f"{config.vocab_size:,} tokens",
        "context": f"{config.context_length:,} tokens",
        "features of a token": f"{config.d_model:,}",
        "blocks": f"{config.num_layers}",
        "attention heads": f"{config.num_heads}, of keys and values {config.kv_heads}",
        "inner features": f"{config.d_ff:,} (SwiGLU)",
        "rotary base": f"{config.rope_theta:g}",
        "head": "shares the embedding's weight" if config.tie_embeddings else "a weight of its own",
        "norm of queries and keys": "RMS" if config.qk_norm == "rms" else "none",
    }
    return f"## Model\n\n{_table(('part', 'size or kind'), rows.items())}"


def _training(origin: Provenance) -> str:
    if origin.is_imported:
        return ""
    rows = {} if origin.step is None else {"updates": f"{origin.step:,}"}
    if "tokens" in origin.update:
        rows["tokens"] = f"{origin.update['tokens']:,}"
    if "seconds" in origin.update:
        rows["time"] = f"{origin.update['seconds']:,.0f} s"
    if device := origin.environment.get("device_name"):
        rows["device"] = str(device)
    settings = dump_toml(
        origin.settings, leave_out=frozenset({"data", "out", "config", "resume", "init_from"})
    )
    return f"## Training\n\n{_table(('measure', 'value'), rows.items())}\n```toml\n{settings}```\n"


def _data(origin: Provenance) -> str:
    splits = origin.manifest.get("splits", {})
    if not splits:
        return ""
    rows = [
        (name, *(f"{split[key]:,}" for key in ("documents", "bytes", "tokens")))
        for name, split in splits.items()
    ]
    files = origin.manifest.get("origin", {}).get("files", [])
    names = ", ".join(f"`{file['name']}`" for file in files)
    made_of = f"\nMade of {names}.\n" if names else ""
    return f"## Data\n\n{_table(('split', 'documents', 'bytes', 'tokens'), rows)}{made_of}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = tuple(head)
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _quoted(text: str) -> str:
    """Return a text as JSON, which is YAML and Python as well."""
    return json.dumps(text, ensure_ascii=False)
