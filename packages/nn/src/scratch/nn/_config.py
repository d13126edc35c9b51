"""The shape of a model, as one value that can be written down and read again."""

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from ._checks import check_at_least_one


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
        feed_forward: "swiglu" or "silu".
        position: "rope", or "none" for no position embedding.
        tie_embeddings: whether the head shares the weight of the embedding.

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
    feed_forward: Literal["swiglu", "silu"] = "swiglu"
    position: Literal["rope", "none"] = "rope"
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff")
        check_at_least_one(**{name: getattr(self, name) for name in sizes})
        if self.d_model % self.num_heads:
            raise ValueError(
                "num_heads must divide d_model, "
                f"got num_heads={self.num_heads}, d_model={self.d_model}"
            )
        if self.position == "rope" and self.d_head % 2:
            raise ValueError(
                "d_model / num_heads must be even for rope, "
                f"got {self.d_model} / {self.num_heads} = {self.d_head}"
            )
        if not 0 < self.rope_theta < math.inf:
            raise ValueError(f"rope_theta must be a positive number, got {self.rope_theta}")
        if not isinstance(self.tie_embeddings, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"tie_embeddings must be True or False, got {self.tie_embeddings!r}")
        hints = get_type_hints(type(self))
        for name in ("norm", "feed_forward", "position"):
            choices, value = get_args(hints[name]), getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")

    @property
    def d_head(self) -> int:
        """Features of each attention head."""
        return self.d_model // self.num_heads


def default_d_ff(d_model: int, feed_forward: Literal["swiglu", "silu"] = "swiglu") -> int:
    """Return the usual inner width: 8/3 d_model to the nearest multiple of 64, or 4 d_model.

    Both give a feed-forward network about `8 d_model^2` weights.

    Raises:
        ValueError: if `d_model` is below 1, or there is no such feed-forward network.
    """
    check_at_least_one(d_model=d_model)
    if feed_forward == "silu":
        return 4 * d_model
    if feed_forward != "swiglu":  # pyright: ignore[reportUnnecessaryComparison]
        raise ValueError(f"feed_forward must be one of swiglu, silu, got {feed_forward!r}")
    return max(64, 64 * round(8 * d_model / 3 / 64))
