"""Attention (Vaswani et al., 2017, arXiv:1706.03762, sections 3.2.1 and 3.2.2)."""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ._checks import check_at_least_one
from ._linear import Linear
from ._rotary import NoPosition, RotaryEmbedding
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


def causal_mask(seq: int, *, device: torch.device | None = None) -> Bool[Tensor, "seq seq"]:
    """Return True where key <= query: each position sees itself and what came before."""
    return torch.ones(seq, seq, dtype=torch.bool, device=device).tril()


class MultiHeadSelfAttention(nn.Module):
    """Causal self-attention in `num_heads` heads of `d_model / num_heads` features each.

    `position` turns queries and keys by their positions, the same way in every head. Rows of the
    projections are ordered by head.

    Raises:
        ValueError: if `num_heads` does not divide `d_model`.
    """

    def __init__(
        self, d_model: int, num_heads: int, *, position: RotaryEmbedding | NoPosition
    ) -> None:
        super().__init__()
        check_at_least_one(d_model=d_model, num_heads=num_heads)
        if d_model % num_heads:
            raise ValueError(
                f"num_heads must divide d_model, got num_heads={num_heads}, d_model={d_model}"
            )
        self.num_heads = num_heads
        self.q_proj = Linear(d_model, d_model)
        self.k_proj = Linear(d_model, d_model)
        self.v_proj = Linear(d_model, d_model)
        self.output_proj = Linear(d_model, d_model)
        self.position = position

    def forward(
        self,
        x: Float[Tensor, "*batch seq d_model"],
        positions: Int[Tensor, "*#batch seq"] | None = None,
    ) -> Float[Tensor, "*batch seq d_model"]:
        """Attend within each sequence; `positions` defaults to `0 .. seq - 1`."""
        q, k, v = (self._heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        if positions is not None:
            positions = positions.unsqueeze(-2)  # one rotation for every head
        q, k = self.position(q, positions), self.position(k, positions)
        mask = causal_mask(x.shape[-2], device=x.device)
        attended = scaled_dot_product_attention(q, k, v, mask)
        return self.output_proj(rearrange(attended, "... heads seq d -> ... seq (heads d)"))

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "... seq (heads d) -> ... heads seq d", heads=self.num_heads)
