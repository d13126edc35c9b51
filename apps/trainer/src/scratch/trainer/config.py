"""The configuration of a run: what `trainer train` may be told, by flags or by a TOML file.

Nothing here imports torch, so `--help` and mistakes are answered at once. A test holds
`ModelSettings` equal to `TransformerConfig`.
"""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from .fields import AtLeastOne, BelowOne, Flag, NotNegative, Positive, Seed, Settings, UpToOne


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
    trainer train --preset tinystories --data data/tinystories --out runs/tinystories
    trainer train --config runs/tales/config.toml --out runs/again --optimizer.lr 3e-3
    torchrun --nproc-per-node 8 -m scratch.trainer train --preset owt --data data/owt --out runs/owt
    """

    data: Path
    """Directory written by `trainer prepare`."""
    out: Path
    """Directory of the run."""
    preset: str | None = None
    """Settings by name, `trainer presets` lists them; flags and --config override them."""
    config: Path | None = None
    """TOML file with any of these settings; flags override it."""
    resume: Flag = False
    """Go on from the newest good checkpoint of the run, or start it if there is none."""
    resume_step: AtLeastOne | None = None
    """Go on from the checkpoint of this step; what came after it is made again."""
    init_from: Path | None = None
    """Start with the weights and the shape of the model of this run."""
    steps: AtLeastOne | None = None
    """Updates to make."""
    train_tokens: AtLeastOne | None = None
    """Instead of --steps: tokens to train on, rounded up to a whole update."""
    train_seconds: Positive | None = None
    """Instead of --steps: how long to train. The schedule follows the share of time used."""
    max_seconds: Annotated[Positive | None, tyro.conf.arg(aliases=["--max-time"])] = None
    """Stop this session after so many seconds, with a checkpoint; --resume goes on."""
    max_tokens: AtLeastOne | None = None
    """Stop when the run has seen so many tokens, with a checkpoint; --resume goes on."""
    batch_size: AtLeastOne = 32
    """Sequences of each update."""
    micro_batch_size: Annotated[
        AtLeastOne | Literal["auto"] | None, tyro.conf.arg(aliases=["--micro-batch"])
    ] = None
    """Sequences in memory at a time, "auto" for as many as fit; by default all of the batch."""
    seed: Seed = 0
    """Of the initial weights and the order of the data."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""
    parallel: Literal["auto", "none", "ddp", "fsdp", "hsdp"] = "auto"
    """What the processes of torchrun share: the batch (ddp, auto), weights too (fsdp, hsdp)."""
    gather_dtype: Literal["float32", "bfloat16"] = "float32"
    """In which fsdp and hsdp send weights; with "bfloat16" half the bytes, and other results."""
    group_size: AtLeastOne | None = None
    """Processes that share the weights in hsdp; by default those of one machine."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of matrix products, never of weights and sums; "auto": bfloat16 where that is fast."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch compiles the model; "auto": on a GPU, and goes without where it fails."""
    checkpoint_every: AtLeastOne = 500
    """Updates between two checkpoints; there is one before each evaluation and at the end."""
    keep_checkpoints: AtLeastOne = 2
    """How many of the newest checkpoints to keep, beside the best."""
    evaluate_every: AtLeastOne = 500
    """Updates between two evaluations on the held-out text; there is always one at the end."""
    log_every: AtLeastOne = 10
    """Updates between two looks at the losses, all of which are then written down."""
    sample_every: AtLeastOne | None = None
    """Updates between two samples of what the model writes; by default none."""
    sample_prompt: str = ""
    """What samples go on from; by default the start of a document."""
    divergence_nats: NotNegative = 2.0
    """Stop when the smoothed loss is this far above its lowest; 0 never does."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where to send the metrics besides the journal; each is an extra to install."""
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()


# The settings of which one says how long a training is.
LENGTHS = ("steps", "train_tokens", "train_seconds")

# Settings that change nothing that is computed.
BESIDE_THE_COMPUTATION = frozenset(
    {
        "config",
        "preset",
        "resume",
        "resume_step",
        "max_seconds",
        "max_tokens",
        "out",
        "device",
        "parallel",
        "group_size",
        "checkpoint_every",
        "keep_checkpoints",
        "evaluate_every",
        "log_every",
        "sample_every",
        "sample_prompt",
        "divergence_nats",
        "trackers",
    }
)
