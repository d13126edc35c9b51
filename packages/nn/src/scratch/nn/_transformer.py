"""The Transformer language model: embedding, blocks, head."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from ._attention import MultiHeadSelfAttention
from ._config import TransformerConfig
from ._embedding import Embedding
from ._feedforward import SiLUFeedForward, SwiGLU
from ._linear import Linear, linear
from ._norm import RMSNorm
from ._rotary import NoPosition, RotaryEmbedding

FeedForward = SwiGLU | SiLUFeedForward


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
    ) -> Float[Tensor, "*batch seq d_model"]:
        z = x + self.attn(self.ln1(x), positions)
        return z + self.ffn(self.ln2(z))


class PostNormBlock(_NormedBlock):
    """`z = norm1(x + attn(x))`, `y = norm2(z + ffn(z))`, as in the first Transformer."""

    def forward(
        self,
        x: Float[Tensor, "*batch seq d_model"],
        positions: Int[Tensor, "*#batch seq"] | None = None,
    ) -> Float[Tensor, "*batch seq d_model"]:
        z = self.ln1(x + self.attn(x, positions))
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
    ) -> Float[Tensor, "*batch seq d_model"]:
        z = x + self.attn(x, positions)
        return z + self.ffn(z)


class Identity(nn.Module):
    """The final norm of a model without norms."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return x


_BLOCKS = {"pre": PreNormBlock, "post": PostNormBlock, "none": NoNormBlock}
_FEED_FORWARDS = {"swiglu": SwiGLU, "silu": SiLUFeedForward}


class TransformerLM(nn.Module):
    """A causal language model: ids in, logits for the next id at every position out.

    >>> import torch
    >>> from scratch.nn import TransformerConfig, TransformerLM
    >>> config = TransformerConfig(
    ...     vocab_size=100, context_length=16, d_model=32, num_layers=2, num_heads=4, d_ff=64
    ... )
    >>> TransformerLM(config)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 100])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        d_model = config.d_model
        position = (
            RotaryEmbedding(config.d_head, config.context_length, theta=config.rope_theta)
            if config.position == "rope"
            else NoPosition()
        )
        self.token_embeddings = Embedding(
            config.vocab_size, d_model, sd=d_model**-0.5 if config.tie_embeddings else 1.0
        )
        self.layers = nn.ModuleList(
            _BLOCKS[config.norm](
                d_model,
                MultiHeadSelfAttention(d_model, config.num_heads, position=position),
                _FEED_FORWARDS[config.feed_forward](d_model, config.d_ff),
            )
            for _ in range(config.num_layers)
        )
        self.ln_final = Identity() if config.norm == "none" else RMSNorm(d_model)
        self.lm_head = None if config.tie_embeddings else Linear(d_model, config.vocab_size)

    def forward(self, ids: Int[Tensor, "*batch seq"]) -> Float[Tensor, "*batch seq vocab"]:
        """Return the logits of the token after each position.

        Raises:
            TypeError: if `ids` are not whole numbers.
            ValueError: if a sequence is longer than the context, or an id is not in the vocabulary.
        """
        return linear(self.hidden(ids), self.head_weight)

    def hidden(self, ids: Int[Tensor, "*batch seq"]) -> Float[Tensor, "*batch seq d_model"]:
        """Return what the head reads: the last block's output after the final norm."""
        seq = ids.shape[-1]
        if seq > self.config.context_length:
            raise ValueError(
                f"ids must be at most context_length={self.config.context_length} long, got {seq}"
            )
        x = self.token_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.ln_final(x)

    @property
    def head_weight(self) -> Float[Tensor, "vocab d_model"]:
        """The weight of the head, which is that of the embedding if the two are tied."""
        return self.token_embeddings.weight if self.lm_head is None else self.lm_head.weight
