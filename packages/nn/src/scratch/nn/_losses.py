"""The loss of a language model: how surprised it is by the token that came."""

from jaxtyping import Float, Int
from torch import Tensor

from ._checks import as_indices
from ._softmax import log_sum_exp


def cross_entropy(
    logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, ""]:
    """Return the mean over all targets of `-logits[target] + log(sum(exp(logits)))`, in nats.

    Works in float32 or wider, which is the dtype of the result.

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
    if targets.numel() == 0:
        raise ValueError(f"targets must not be empty, got shape {tuple(targets.shape)}")
    indices = as_indices(targets, logits.shape[-1], name="targets", rule="the vocabulary")
    normalizer = log_sum_exp(logits)
    chosen = logits.gather(-1, indices[..., None])[..., 0]
    return (normalizer - chosen).mean()
