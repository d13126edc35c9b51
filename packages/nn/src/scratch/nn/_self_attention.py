"""Multi-head self-attention (Vaswani et al., 2017, arXiv:1706.03762, section 3.2.2)."""

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ._backends import ATTENTION_BACKENDS, AttentionBackend
from ._checks import check_at_least_one
from ._linear import Linear
from ._norm import NoNorm, RMSNorm
from ._rotary import NoPosition, RotaryEmbedding
from ._visibility import EVERYTHING, Visibility

# Queries, keys and values, all in heads, to what the queries gather.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class MultiHeadSelfAttention(nn.Module):
    """Causal self-attention in `num_heads` heads of `d_model / num_heads` features each.

    `position` turns queries and keys by their positions, the same way in every head. Rows of the
    projections are ordered by head.

    Args:
        d_model: features of the input and of the output.
        num_heads: heads of the queries.
        position: where the order of the tokens comes in.
        num_kv_heads: heads of keys and values, each shared by `num_heads / num_kv_heads` query
            heads (grouped-query attention; Ainslie et al., 2023, arXiv:2305.13245); all by default.
        qk_norm: what norms the queries and keys of each head before they are turned (Henry et al.,
            2020, arXiv:2010.04245): `RMSNorm`, or `NoNorm`.
        backend: how attention is computed.

    Raises:
        ValueError: if `num_heads` does not divide `d_model`, or `num_kv_heads` not `num_heads`.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        position: RotaryEmbedding | NoPosition,
        num_kv_heads: int | None = None,
        qk_norm: Callable[[int], RMSNorm | NoNorm] = NoNorm,
        backend: AttentionBackend = ATTENTION_BACKENDS["auto"],
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_at_least_one(d_model=d_model, num_heads=num_heads, num_kv_heads=num_kv_heads)
        if d_model % num_heads:
            raise ValueError(
                f"num_heads must divide d_model, got num_heads={num_heads}, d_model={d_model}"
            )
        if num_heads % num_kv_heads:
            raise ValueError(
                "num_kv_heads must divide num_heads, "
                f"got num_kv_heads={num_kv_heads}, num_heads={num_heads}"
            )
        d_head = d_model // num_heads
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.q_proj = Linear(d_model, d_model)
        self.k_proj = Linear(d_model, num_kv_heads * d_head)
        self.v_proj = Linear(d_model, num_kv_heads * d_head)
        self.output_proj = Linear(d_model, d_model)
        self.q_norm, self.k_norm = qk_norm(d_head), qk_norm(d_head)
        self.position = position
        self.backend = backend

    def forward(
        self,
        x: Float[Tensor, "*batch seq d_model"],
        positions: Int[Tensor, "*#batch seq"] | None = None,
        *,
        visible: Visibility | None = None,
        attend: Attend | None = None,
    ) -> Float[Tensor, "*batch seq d_model"]:
        """Attend within each sequence.

        Args:
            x: the tokens.
            positions: of the tokens, by default `0 .. seq - 1`.
            visible: what each token sees, by default all before it.
            attend: takes the place of the backend, for tokens that attend to more than `x`, as
                those kept from earlier calls.
        """
        q = self._heads(self.q_proj(x), self.num_heads)
        k = self._heads(self.k_proj(x), self.num_kv_heads)
        v = self._heads(self.v_proj(x), self.num_kv_heads)
        if positions is not None:
            positions = positions.unsqueeze(-2)  # one rotation for every head
        q = self.position(self.q_norm(q), positions)
        k = self.position(self.k_norm(k), positions)
        if attend is None:
            attended = self.backend(q, k, v, EVERYTHING if visible is None else visible)
        else:
            attended = attend(q, k, v)
        return self.output_proj(rearrange(attended, "... heads seq d -> ... seq (heads d)"))

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return rearrange(x, "... seq (heads d) -> ... heads seq d", heads=heads)
