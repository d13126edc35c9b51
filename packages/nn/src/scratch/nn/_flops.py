"""What a token costs in arithmetic, and how much of a device that keeps busy.

A product of a matrix of N weights with a vector is N multiplications and N additions: 2 N FLOPs.
Its gradients are two more such products. So a token costs 6 N in all linear maps, and attention
over T tokens, `Q K^T` and `P V` in each of L layers, costs 12 L d T on top (Chowdhery et al., 2022,
arXiv:2204.02311, appendix B). Norms, activations, softmax and the look-up of embeddings are less
than a hundredth of that and count nothing.
"""

import math
import re
from dataclasses import dataclass

import torch

from ._accounting import attention_weights, feed_forward_weights
from ._checks import check_at_least_one
from ._config import TransformerConfig

# Peaks of dense bfloat16 products with float32 sums, in FLOP/s, from the makers' data sheets; the
# figures on their first pages are often those for sparse matrices, twice as large.
_PEAKS = {
    r"A100\b.*": 312e12,
    r"A800\b.*": 312e12,
    r"A10": 125e12,
    r"A30": 165e12,
    r"A40": 149.7e12,
    r"L4": 121e12,
    r"L40S": 362e12,
    r"H100 80GB HBM3": 989e12,
    r"H100 NVL": 835e12,
    r"H100 PCIe": 756e12,
    r"H200": 989e12,
    r"H200 NVL": 835e12,
    r"GH200 .*": 989e12,
    r"H20": 148e12,
    r"B200": 2250e12,
    r"RTX 3090": 71e12,
    r"RTX 4090": 165e12,
    r"RTX 5090": 209.5e12,
}


@dataclass(frozen=True, kw_only=True)
class FlopsPerToken:
    """FLOPs that a token of a sequence costs, by component.

    Attributes:
        projections: the linear maps of attention, forward.
        scores: `Q K^T` and `P V`, forward, as if each token saw the whole sequence. Half of that
            is hidden from it, but this is what most tables of MFU count.
        visible_scores: the same, with what each token does see: causal, and within the sliding
            window if there is one.
        feed_forward: the feed-forward networks, forward.
        head: the head, forward, without padding.
        recomputed: what checkpointing computes a second time; part of no total.
    """

    projections: int
    scores: int
    visible_scores: int | float
    feed_forward: int
    head: int
    recomputed: int

    @property
    def forward(self) -> int:
        """One pass forward, with full scores: `2 N + 4 L d T`."""
        return self.projections + self.scores + self.feed_forward + self.head

    @property
    def backward(self) -> int:
        """The gradients of it: twice `forward`."""
        return 2 * self.forward

    @property
    def total(self) -> int:
        """Forward and backward, `6 N + 12 L d T`, N the weights that are multiplied: for MFU."""
        return self.forward + self.backward

    @property
    def visible_total(self) -> int | float:
        """Forward and backward of what cannot be left out: `total` with `visible_scores`."""
        return 3 * (self.projections + self.visible_scores + self.feed_forward + self.head)


def flops_per_token(config: TransformerConfig, *, seq: int | None = None) -> FlopsPerToken:
    """Return what a token of a sequence of `seq` costs, by default of a full context.

    Raises:
        TypeError: if `seq` is not a whole number.
        ValueError: if `seq` is not in `1 .. context_length`.
    """
    seq = checked_seq(config, seq)
    layers, d_model = config.num_layers, config.d_model
    projections, feed_forward = 2 * attention_weights(config), 2 * feed_forward_weights(config)
    scores = 4 * d_model * seq
    recomputed = 0
    if config.checkpointing == "block":
        # The last product of a block is not computed again: no gradient asks for its result,
        # except that of a norm behind it.
        last = 0 if config.norm == "post" else 2 * d_model * config.d_ff
        recomputed = layers * (projections + scores + feed_forward - last)
    return FlopsPerToken(
        projections=layers * projections,
        scores=layers * scores,
        visible_scores=layers * 4 * d_model * _mean_visible(seq, config.sliding_window),
        feed_forward=layers * feed_forward,
        head=2 * config.vocab_size * d_model,
        recomputed=recomputed,
    )


def peak_flops_per_second(device: torch.device | str) -> float | None:
    """Return the peak of dense bfloat16 products, `None` for a CPU and for cards not known here.

    Args:
        device: a device, or the name of a card as `torch.cuda.get_device_name` gives it.
    """
    if isinstance(device, torch.device) or re.match("cpu|cuda", device):
        device = torch.device(device)
        if device.type != "cuda":
            return None
        device = torch.cuda.get_device_name(device)
    if re.search(r"\bMIG\b", device):
        return None  # a slice of a card
    card = re.sub(r"^(NVIDIA )?(GeForce |Tesla )?", "", device.strip())
    return next((peak for name, peak in _PEAKS.items() if re.fullmatch(name, card)), None)


def mfu(
    tokens_per_second: int | float,
    flops_per_token: FlopsPerToken | int | float,
    device: torch.device | str,
) -> float | None:
    """Return the model FLOPs utilization: `tokens_per_second * flops_per_token / peak`.

    A fraction of one, of the peak in dense bfloat16 whatever the dtype; `None` where no peak is
    known.

    Args:
        tokens_per_second: trained on, by each device.
        flops_per_token: a `FlopsPerToken`, whose `total` is taken, or a number by another
            convention, such as `visible_total`.
        device: see `peak_flops_per_second`.

    Raises:
        ValueError: if a number is negative or not finite.
    """
    flops = flops_per_token.total if isinstance(flops_per_token, FlopsPerToken) else flops_per_token
    for name, value in (("tokens_per_second", tokens_per_second), ("flops_per_token", flops)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number and not negative, got {value}")
    peak = peak_flops_per_second(device)
    return None if peak is None else tokens_per_second * flops / peak


def checked_seq(config: TransformerConfig, seq: int | None) -> int:
    """Return `seq`, by default the full context, having checked that the model takes it."""
    if seq is None:
        return config.context_length
    check_at_least_one(seq=seq)
    if seq > config.context_length:
        raise ValueError(f"seq must be at most context_length={config.context_length}, got {seq}")
    return seq


def _mean_visible(seq: int, window: int | None) -> float:
    """Return how many tokens a token of a sequence sees on average, itself included."""
    window = seq if window is None else min(window, seq)
    # The first `window` tokens see 1, 2, .. window; each one after them sees `window`.
    return (window * (window + 1) / 2 + (seq - window) * window) / seq
