"""The loss of a language model: how surprised it is by the token that came."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import as_indices
from ._softmax import log_sum_exp


def cross_entropy(
    logits: Float[Tensor, "*batch vocab"],
    targets: Int[Tensor, "*batch"],
    *,
    token_weights: Float[Tensor, "*batch"] | None = None,
    ignore_index: int | None = None,
    z_loss: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the mean over all targets of `-logits[target] + log(sum(exp(logits)))`, in nats.

    Works in float32 or wider, which is the dtype of the result.

    Args:
        logits: one for each token of the vocabulary.
        targets: the tokens that came.
        token_weights: how much each target counts in the mean, by default all the same. If none
            counts anything, the loss is zero.
        ignore_index: targets of this value count nothing.
        z_loss: adds so much of `log(sum(exp(logits)))^2`, which keeps logits from drifting
            (Chowdhery et al., 2022, arXiv:2204.02311, section 5).

    Raises:
        TypeError: if `targets` are not whole numbers.
        ValueError: if the shapes do not fit, there is no target, or one is not in
            `0 .. vocab - 1` (checked on the CPU).
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            "targets must have the shape of logits without the last axis, "
            f"got logits {tuple(logits.shape)}, targets {tuple(targets.shape)}"
        )
    indices, weights = weighted_targets(
        targets,
        token_weights,
        ignore_index=ignore_index,
        vocab=logits.shape[-1],
        dtype=logits.dtype,
    )
    normalizer = log_sum_exp(logits)
    chosen = logits.gather(-1, indices[..., None])[..., 0]
    losses = normalizer - chosen
    if z_loss:
        losses = losses + z_loss * normalizer.square()
    return losses.mean() if weights is None else (losses * weights).sum()


def soft_cap(logits: Float[Tensor, "*shape"], cap: float) -> Float[Tensor, "*shape"]:
    """Return `cap tanh(logits / cap)`, which stays within `-cap .. cap` (arXiv:2408.00118)."""
    return cap * torch.tanh(logits / cap)


def weighted_targets(
    targets: Int[Tensor, "*batch"],
    token_weights: Float[Tensor, "*batch"] | None,
    *,
    ignore_index: int | None,
    vocab: int,
    dtype: torch.dtype,
) -> tuple[Int[Tensor, "*batch"], Float[Tensor, "*batch"] | None]:
    """Return the targets as indices, and their shares of the mean; `None` if all are alike.

    The shares are in float32 or wider, and as wide as `dtype`.
    """
    if targets.numel() == 0:
        raise ValueError(f"targets must not be empty, got shape {tuple(targets.shape)}")
    if token_weights is not None and token_weights.shape != targets.shape:
        raise ValueError(
            "token_weights must have the shape of targets, "
            f"got {tuple(token_weights.shape)} for {tuple(targets.shape)}"
        )
    weights = token_weights
    if ignore_index is not None:
        counted = targets.long() != ignore_index  # in uint8, -100 would be 156
        targets = torch.where(counted, targets, 0)
        # Not a product: what is ignored may have a weight that is not a number.
        weights = counted if weights is None else torch.where(counted, weights, 0.0)
    indices = as_indices(targets, vocab, name="targets", rule="the vocabulary")
    if weights is None:
        return indices, None
    widest = torch.promote_types(weights.dtype, dtype)
    weights = weights.to(torch.promote_types(widest, torch.float32))
    total = weights.sum()
    return indices, weights / torch.where(total == 0, 1.0, total)
