"""A block: attention and a feed-forward network, each added to what came in."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from ._feedforward import ReLUSquaredFeedForward, SiLUFeedForward, SwiGLU
from ._norm import RMSNorm
from ._self_attention import Attend, MultiHeadSelfAttention
from ._visibility import Visibility

FeedForward = SwiGLU | SiLUFeedForward | ReLUSquaredFeedForward


class _NormedBlock(nn.Module):
    """Attention, a feed-forward network and a norm for each; where the norms stand is open."""

    def __init__(self, d_model: int, attn: MultiHeadSelfAttention, ffn: FeedForward) -> None:
        super().__init__()
        self.attn, self.ffn = attn, ffn
        self.ln1, self.ln2 = RMSNorm(d_model), RMSNorm(d_model)


class PreNormBlock(_NormedBlock):
    """`z = x + attn(norm1(x))`, `y = z + ffn(norm2(z))` (Xiong et al., 2020, arXiv:2002.04745)."""

    def forward(
        self,
        x: Float[Tensor, "*batch seq d_model"],
        positions: Int[Tensor, "*#batch seq"] | None = None,
        *,
        visible: Visibility | None = None,
        attend: Attend | None = None,
    ) -> Float[Tensor, "*batch seq d_model"]:
        z = x + self.attn(self.ln1(x), positions, visible=visible, attend=attend)
        return z + self.ffn(self.ln2(z))


class PostNormBlock(_NormedBlock):
    """`z = norm1(x + attn(x))`, `y = norm2(z + ffn(z))`, as in the first Transformer."""

    def forward(
        self,
        x: Float[Tensor, "*batch seq d_model"],
        positions: Int[Tensor, "*#batch seq"] | None = None,
        *,
        visible: Visibility | None = None,
        attend: Attend | None = None,
    ) -> Float[Tensor, "*batch seq d_model"]:
        z = self.ln1(x + self.attn(x, positions, visible=visible, attend=attend))
        return self.ln2(z + self.ffn(z))


class NoNormBlock(nn.Module):
    """`z = x + attn(x)`, `y = z + ffn(z)`: what the norms are good for shows without them."""

    def __init__(self, d_model: int, attn: MultiHeadSelfAttention, ffn: FeedForward) -> None:  # noqa: ARG002
        super().__init__()
        self.attn, self.ffn = attn, ffn

    def forward(
        self,
        x: Float[Tensor, "*batch seq d_model"],
        positions: Int[Tensor, "*#batch seq"] | None = None,
        *,
        visible: Visibility | None = None,
        attend: Attend | None = None,
    ) -> Float[Tensor, "*batch seq d_model"]:
        z = x + self.attn(x, positions, visible=visible, attend=attend)
        return z + self.ffn(z)
