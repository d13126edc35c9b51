"""Attention, the formula (Vaswani et al., 2017, arXiv:1706.03762, section 3.2.1)."""

import math

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from ._softmax import softmax


def scaled_dot_product_attention(
    q: Float[Tensor, "*batch query d_head"],
    k: Float[Tensor, "*batch key d_head"],
    v: Float[Tensor, "*batch key d_value"],
    mask: Bool[Tensor, "*#batch query key"] | None = None,
) -> Float[Tensor, "*batch query d_value"]:
    """Return `softmax(Q K^T / sqrt(d_head)) V`.

    Where `mask` is False a query does not attend to a key. A query that may attend to nothing gets
    zeros, and its gradients are zeros too. The weights are made in float32 or wider.

    Raises:
        TypeError: if `mask` is not boolean.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = einsum(q.to(wide), k.to(wide), "... query d_head, ... key d_head -> ... query key")
    scores = scores / math.sqrt(q.shape[-1])
    if mask is None:
        weights = softmax(scores)
    elif mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, True = attend, got dtype {mask.dtype}")
    else:
        # The least number, not -inf: a row without any True would be -inf - -inf, not a number.
        weights = softmax(torch.where(mask, scores, torch.finfo(scores.dtype).min))
        weights = torch.where(mask, weights, 0.0)
    return einsum(weights.to(v.dtype), v, "... query key, ... key d_value -> ... query d_value")
