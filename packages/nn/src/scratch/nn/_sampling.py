"""Sampling: from the logits of the next token to one that is drawn."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import check_at_least_one
from ._softmax import softmax


def sampling_distribution(
    logits: Float[Tensor, "*batch vocab"],
    *,
    temperature: int | float = 1.0,
    top_k: int | None = None,
    top_p: int | float = 1.0,
    min_p: int | float = 0.0,
) -> Float[Tensor, "*batch vocab"]:
    """Return the probabilities to draw the next token from.

    In this order: divide the logits by `temperature` (0 puts all mass on the greatest, the first of
    equal ones); keep the `top_k` likeliest tokens; of those keep the likeliest that together reach
    `top_p` of the mass, as few as possible (Holtzman et al., 2019, arXiv:1904.09751); of those keep
    the tokens that are at least `min_p` times as probable as the likeliest (Nguyen et al., 2024,
    arXiv:2407.01082), which keeps few where the model is sure, and many where it is not.

    Works in float32 or wider, which is the dtype of the result.

    Raises:
        TypeError: if `top_k` is not a whole number.
        ValueError: if `temperature` is negative, `top_k` below 1, `top_p` not in (0, 1] or `min_p`
            not in [0, 1].
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    # Subtracting the greatest first keeps a low temperature from overflowing; one that the dtype
    # cannot hold would be 0 or infinite, and divide to what is not a number.
    limits = torch.finfo(logits.dtype)
    temperature = min(max(temperature, limits.tiny), limits.max)
    mass = softmax((logits - logits.amax(-1, keepdim=True)) / temperature)
    if top_k is not None or top_p < 1:
        mass = _likeliest(mass, top_k=top_k, top_p=top_p)
    if min_p > 0:
        mass = torch.where(mass >= min_p * mass.amax(-1, keepdim=True), mass, 0)
        mass = mass / mass.sum(-1, keepdim=True)
    return mass


def _likeliest(
    mass: Float[Tensor, "*batch vocab"], *, top_k: int | None, top_p: int | float
) -> Float[Tensor, "*batch vocab"]:
    """Keep the `top_k` likeliest tokens, and of those as few as reach `top_p` of the mass."""
    mass, order = mass.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        mass[..., top_k:] = 0
        mass = mass / mass.sum(-1, keepdim=True)
    if top_p < 1:
        kept = mass.cumsum(-1) - mass < top_p
        kept[..., 0] = True  # also where `top_p` is less than the dtype can hold
        mass = torch.where(kept, mass, 0)
        mass = mass / mass.sum(-1, keepdim=True)
    return torch.zeros_like(mass).scatter(-1, order, mass)


def draw(
    distribution: Float[Tensor, "batch vocab"], *, generator: torch.Generator
) -> Int[Tensor, " batch"]:
    """Draw an id of each row, on the device of `distribution` and without waiting for it.

    A race: with E from the exponential distribution of rate 1, `E / p` is one of rate `p`, and the
    first of independent clocks of rates `p` to ring is clock i with probability `p_i`. So the
    `argmax` of `p / E` is a draw. (The logarithm of this is the Gumbel-max trick.)
    """
    clocks = torch.empty_like(distribution).exponential_(generator=generator)
    # Rounded to 0, a clock would give 0 / 0 to a token that must not come.
    clocks.clamp_(min=torch.finfo(clocks.dtype).tiny)
    return (distribution / clocks).argmax(-1)


def check_sampling(
    *, temperature: int | float, top_k: int | None, top_p: int | float, min_p: int | float
) -> None:
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be 0 (greedy) or a positive number, got {temperature}")
    if top_k is not None:
        check_at_least_one(top_k=top_k)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p must be in [0, 1], got {min_p}")
