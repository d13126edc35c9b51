"""The shape of a model, as one value that can be written down and read again."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from ._checks import check_at_least_one

_HEAD_OF_SIZED = 64


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What a `TransformerLM` is made of.

    Attributes:
        vocab_size: token ids are `0 .. vocab_size - 1`.
        context_length: the longest sequence, in tokens.
        d_model: features of each token between the blocks.
        num_layers: blocks.
        num_heads: attention heads; must divide `d_model`.
        d_ff: inner features of the feed-forward network; `default_d_ff` gives the usual.
        rope_theta: base of the rotary angles.
        norm: where the RMS norms stand. "pre": before each part, and before the head; "post":
            after each sum, and before the head; "none": nowhere.
        feed_forward: "swiglu", "silu" or "relu2", the square of a ReLU.
        position: "rope", or "none" for no position embedding.
        start: "glorot" starts every matrix as `Linear` does; "identity" starts at zero those that
            add to what flows between the blocks, and an untied head, so that each block passes on
            what comes in and all tokens are equally likely (as Zhang et al., 2019,
            arXiv:1901.09321).
        tie_embeddings: whether the head shares the weight of the embedding.
        num_kv_heads: heads of keys and values, each shared by a group of query heads; must divide
            `num_heads`, which is the default.
        qk_norm: "rms" norms queries and keys of each head before they are turned; or "none".
        attention: how attention is computed: "auto", "reference", "block", "fused" or "flex".
        sliding_window: how many tokens each one sees, itself included; `None` for all before it.
        logit_cap: logits become `cap tanh(logits / cap)`; `None` leaves them.
        rope_scaling: how the angles are made to fit contexts `rope_factor` times longer than
            those a model was trained on. "linear" divides positions by it (Chen et al., 2023,
            arXiv:2306.15595); "ntk" raises `rope_theta` so that the slowest pair turns slower by
            it and the fastest hardly at all (bloc97, 2023); "none".
        rope_factor: see there; 1 with "none".
        pad_vocab_to: the head's matrix product is made with rows of zeros beside its weight, up to
            a multiple of so many, which GPUs like. Neither logits nor weights show it.
        checkpointing: what is kept for the gradients. "none": all activations; "block": only the
            inputs of the blocks, whose inside is computed again (Chen et al., 2016,
            arXiv:1604.06174).

    Raises:
        ValueError: if a value is out of range, or the values do not fit together.
    """

    vocab_size: int
    context_length: int
    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int
    rope_theta: float = 10_000.0
    norm: Literal["pre", "post", "none"] = "pre"
    feed_forward: Literal["swiglu", "silu", "relu2"] = "swiglu"
    position: Literal["rope", "none"] = "rope"
    tie_embeddings: bool = False
    start: Literal["glorot", "identity"] = "glorot"
    num_kv_heads: int | None = None
    qk_norm: Literal["none", "rms"] = "none"
    attention: Literal["auto", "reference", "block", "fused", "flex"] = "auto"
    sliding_window: int | None = None
    logit_cap: float | None = None
    rope_scaling: Literal["none", "linear", "ntk"] = "none"
    rope_factor: float = 1.0
    pad_vocab_to: int = 64
    checkpointing: Literal["none", "block"] = "none"

    def __post_init__(self) -> None:
        sizes = ["vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff"]
        sizes.append("pad_vocab_to")
        optional = ["num_kv_heads", "sliding_window"]
        sizes += [name for name in optional if getattr(self, name) is not None]
        check_at_least_one(**{name: getattr(self, name) for name in sizes})
        if self.d_model % self.num_heads:
            raise ValueError(
                "num_heads must divide d_model, "
                f"got num_heads={self.num_heads}, d_model={self.d_model}"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                "num_kv_heads must divide num_heads, "
                f"got num_kv_heads={self.num_kv_heads}, num_heads={self.num_heads}"
            )
        if self.position == "rope" and self.d_head % 2:
            raise ValueError(
                "d_model / num_heads must be even for rope, "
                f"got {self.d_model} / {self.num_heads} = {self.d_head}"
            )
        for name in ("rope_theta", "rope_factor", "logit_cap"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value}")
        if not isinstance(self.tie_embeddings, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"tie_embeddings must be True or False, got {self.tie_embeddings!r}")
        self._check_choices()
        if (self.rope_scaling == "none") != (self.rope_factor == 1):
            raise ValueError(
                'rope_factor must be 1 with rope_scaling="none", and not 1 with another, '
                f"got {self.rope_factor} with {self.rope_scaling!r}"
            )
        if self.rope_scaling != "none" and self.position != "rope":
            raise ValueError(
                f'rope_scaling must be "none" with position="none", got {self.rope_scaling!r}'
            )

    def _check_choices(self) -> None:
        hints = get_type_hints(type(self))
        choosing = ("norm", "feed_forward", "position", "qk_norm", "attention", "rope_scaling")
        for name in (*choosing, "start", "checkpointing"):
            choices, value = get_args(hints[name]), getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")

    @classmethod
    def sized(
        cls, *, depth: int, vocab_size: int, context_length: int = 1024, **changes: Any
    ) -> "TransformerConfig":
        """Return a model whose width follows its depth: one dial from tiny to large.

        `d_model` is 64 times `depth`, in heads of 64 features, and `d_ff` the usual. So a depth
        of 12 has the width and the heads of GPT-2 small.

        Args:
            depth: blocks.
            vocab_size, context_length: as always.
            changes: any other attribute, in place of what follows from the depth.

        Raises:
            ValueError: as the constructor.
        """
        check_at_least_one(depth=depth)
        d_model = changes.get("d_model", _HEAD_OF_SIZED * depth)
        sizes: dict[str, Any] = {
            "num_layers": depth,
            "d_model": d_model,
            "num_heads": max(1, d_model // _HEAD_OF_SIZED),
            "d_ff": default_d_ff(d_model, changes.get("feed_forward", "swiglu")),
        }
        return cls(vocab_size=vocab_size, context_length=context_length, **{**sizes, **changes})

    @property
    def d_head(self) -> int:
        """Features of each attention head."""
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


def default_d_ff(d_model: int, feed_forward: Literal["swiglu", "silu", "relu2"] = "swiglu") -> int:
    """Return the usual inner width: 8/3 d_model to the nearest multiple of 64, or 4 d_model.

    Both give a feed-forward network about `8 d_model^2` weights.

    Raises:
        ValueError: if `d_model` is below 1, or there is no such feed-forward network.
    """
    check_at_least_one(d_model=d_model)
    if feed_forward in ("silu", "relu2"):
        return 4 * d_model
    if feed_forward != "swiglu":  # pyright: ignore[reportUnnecessaryComparison]
        raise ValueError(f"feed_forward must be one of swiglu, silu, relu2, got {feed_forward!r}")
    return max(64, 64 * round(8 * d_model / 3 / 64))
