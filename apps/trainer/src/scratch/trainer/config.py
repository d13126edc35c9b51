"""Settings: what a user may choose, as frozen typed values. Flags and TOML files come from these.

Nothing here imports torch, so `--help` and mistakes are answered at once. A test holds
`ModelSettings` equal to `TransformerConfig`.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import tomli_w
import tyro
from pydantic import BaseModel, ConfigDict, Field, ValidationError

AtLeastOne = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
UpToOne = Annotated[float, Field(gt=0, le=1)]


Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


class ModelSettings(Settings):
    """The shape of the model; the size of its vocabulary comes from the data."""

    context_length: AtLeastOne = 128
    """Tokens that the model sees at once."""
    d_model: AtLeastOne = 192
    """Features of each token."""
    num_layers: AtLeastOne = 4
    """Transformer blocks."""
    num_heads: AtLeastOne = 6
    """Attention heads; must divide d-model."""
    d_ff: AtLeastOne | None = None
    """Inner features; by default 8/3 d-model (4 d-model without a gate)."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary angles."""
    norm: Literal["pre", "post", "none"] = "pre"
    """Where the RMS norms stand."""
    feed_forward: Literal["swiglu", "silu", "relu2"] = "swiglu"
    """Kind of feed-forward network."""
    position: Literal["rope", "none"] = "rope"
    """Kind of position embedding."""
    tie_embeddings: bool = False
    """Whether the head shares the weight of the embedding."""
    start: Literal["glorot", "identity"] = "glorot"
    """How weights start; "identity": what blocks add, and the logits, start at zero."""
    num_kv_heads: Annotated[int | None, Field(ge=1)] = None
    """Heads of keys and values, each shared by a group of heads; by default as many as heads."""
    qk_norm: Literal["none", "rms"] = "none"
    """What norms queries and keys of each head."""
    attention: Literal["auto", "reference", "block", "fused", "flex"] = "auto"
    """How attention is computed."""
    sliding_window: Annotated[int | None, Field(ge=1)] = None
    """Tokens that each token sees, itself included; by default all before it."""
    logit_cap: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Logits become cap tanh(logits / cap); by default they stay as they are."""
    rope_scaling: Literal["none", "linear", "ntk"] = "none"
    """How the rotary angles are made to fit longer contexts."""
    rope_factor: Positive = 1.0
    """How much longer the contexts are that rope-scaling is for."""
    pad_vocab_to: Annotated[int, Field(ge=1)] = 64
    """The head's matrix product is padded to a multiple of so many tokens, which GPUs like."""
    checkpointing: Literal["none", "block"] = "none"
    """What is not kept but computed again for the gradients, to save memory."""


class OptimizerSettings(Settings):
    """The optimizer, its schedule, clipping."""

    lr: NotNegative = 1e-3
    """Greatest learning rate of AdamW."""
    kind: Literal["adamw", "muon"] = "adamw"
    """AdamW for all; or Muon for the matrices of the blocks, and AdamW for the rest."""
    muon_lr: Positive = 0.02
    """Greatest learning rate of Muon, where there is one."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """After the warm-up: half a cosine down; a line down; level, then a line down; or level."""
    decay_fraction: UpToOne = 0.4
    """Share of the training over which the rate of "wsd" goes down."""
    warmup_fraction: BelowOne = 0.05
    """Share of the training over which the learning rate rises from zero."""
    floor_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the greatest learning rate that is left at the end."""
    weight_decay: NotNegative = 0.1
    """Decay of matrices at each step, times the learning rate."""
    beta1: BelowOne = 0.9
    """How much of the first moment is kept at each step."""
    beta2: BelowOne = 0.95
    """How much of the second moment is kept at each step."""
    eps: Positive = 1e-8
    """Keeps a step finite where the second moment is zero."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""


class TrainSettings(Settings):
    """Train a model on prepared data.

    trainer train --data data/tales --out runs/tales --steps 1000
    """

    data: Path
    """Directory written by `trainer prepare`."""
    out: Path
    """Directory of the run."""
    config: Path | None = None
    """TOML file with any of these settings; flags override it."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on from the newest checkpoint of the run, or start it if there is none."""
    steps: AtLeastOne | None = None
    """Updates to make."""
    train_seconds: Positive | None = None
    """Instead of --steps: how long to train. The schedule follows the share of time used."""
    batch_size: AtLeastOne = 32
    """Sequences of each update."""
    micro_batch_size: AtLeastOne | None = None
    """Sequences to hold in memory at a time; by default all of the batch."""
    seed: Seed = 0
    """Of the initial weights and the order of the data."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of matrix products, never of weights and sums; "auto": bfloat16 where that is fast."""
    checkpoint_every: AtLeastOne = 500
    """Updates between two checkpoints; there is always one at the end."""
    keep_checkpoints: AtLeastOne = 2
    """How many of the newest checkpoints to keep."""
    evaluate_every: AtLeastOne = 500
    """Updates between two evaluations on the held-out text; there is always one at the end."""
    log_every: AtLeastOne = 10
    """Updates between two looks at the losses, all of which are then written down."""
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()


class PrepareSettings(Settings):
    """Turn text files into a tokenizer and token files.

    trainer prepare tales.txt --out data/tales --vocab-size 4096
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    """UTF-8 text files; documents in them are separated by <|endoftext|>."""
    out: Path
    """Directory to write."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    """Tokens of the vocabulary, bytes and <|endoftext|> included."""
    validation: tuple[Path, ...] = ()
    """Files to hold out, instead of a fraction."""
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of the documents to hold out; of a text with few documents, its end."""
    tokenizer: Path | None = None
    """A tokenizer file to use instead of training one."""


class EvaluateSettings(Settings):
    """Measure a trained model on held-out text, or on files.

    trainer evaluate runs/tales
    trainer evaluate runs/tales other.txt --json
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """UTF-8 text files; by default the text that was held out."""
    json_output: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")] = False
    """Print one JSON object."""
    batch_size: AtLeastOne = 32
    """Sequences to score at a time."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""


class GenerateSettings(Settings):
    """Continue a text.

    trainer generate runs/tales --prompt "Once upon a time" --seed 1
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    prompt: str = ""
    """Text to continue; by default the start of a document."""
    max_new_tokens: Annotated[int, Field(ge=0)] = 200
    """Stop after so many tokens, if the document has not ended before."""
    temperature: NotNegative = 0.8
    """0 always takes the likeliest token; 1 draws from the model as it is."""
    top_k: AtLeastOne | None = None
    """Draw only from this many likeliest tokens."""
    top_p: UpToOne = 0.95
    """Draw only from the likeliest tokens that together have this probability."""
    seed: Seed | None = None
    """The same seed draws the same text."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""


class QuickstartSettings(Settings):
    """Train a small model on the Python standard library, and compare it with gzip and xz.

    trainer quickstart
    """

    out: Path = Path("runs/quickstart")
    """Directory to write everything into."""
    train_seconds: Positive = 150.0
    """How long to train."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    """Tokens of the vocabulary."""
    seed: Seed = 0
    """Of the initial weights, the order of the data and the samples."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""


def load_toml(path: Path, kind: type[S], *, placeholders: Mapping[str, Any] | None = None) -> S:
    """Return the settings in a TOML file; what it leaves out keeps its default.

    `placeholders` stand in for settings without a default that the file leaves out.

    Raises:
        ValueError: naming the file and an unknown key with the nearest known one, or a bad value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a TOML file: {error}") from None
    for key, known in _unknown_keys(values, kind):
        near = difflib.get_close_matches(key.split(".")[-1], [k.split(".")[-1] for k in known], 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
        raise ValueError(f"{path}: unknown key {key}{hint}")
    try:
        return kind.model_validate({**(placeholders or {}), **values})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {key}: {first['msg']}, got {first['input']!r}") from None


def dump_toml(settings: Settings, *, leave_out: frozenset[str] = frozenset()) -> str:
    """Return settings as TOML; those that are None are left out."""
    values = settings.model_dump(mode="json", exclude_none=True, exclude=set(leave_out))
    return tomli_w.dumps(values)


def _unknown_keys(
    values: Mapping[str, Any], kind: type[Settings], prefix: str = ""
) -> Iterator[tuple[str, list[str]]]:
    for key, value in values.items():
        field = kind.model_fields.get(key)
        if field is None:
            yield prefix + key, [prefix + name for name in kind.model_fields]
        elif isinstance(value, dict):
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Settings):
                yield from _unknown_keys(cast("dict[str, Any]", value), inner, f"{prefix}{key}.")
