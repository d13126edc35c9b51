"""The Transformer language model: embedding, blocks, head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from ._backends import ATTENTION_BACKENDS
from ._blocks import NoNormBlock, PostNormBlock, PreNormBlock
from ._config import TransformerConfig
from ._embedding import Embedding
from ._feedforward import ReLUSquaredFeedForward, SiLUFeedForward, SwiGLU
from ._forms import same_forms_again
from ._linear import Linear, linear, pad_rows
from ._linear_loss import linear_cross_entropy
from ._losses import soft_cap
from ._norm import NoNorm, RMSNorm
from ._rotary import NoPosition, RotaryEmbedding, ntk_theta
from ._self_attention import Attend, MultiHeadSelfAttention
from ._visibility import Visibility


def _call(block: Callable[..., Tensor], x: Tensor) -> Tensor:
    return block(x)


def _call_and_forget(block: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Call `block`, keeping its input only: the rest is computed again for the gradient."""
    if not torch.is_grad_enabled():
        return block(x)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if not torch.compiler.is_compiling():  # which has but one form
        options["context_fn"] = same_forms_again
    return checkpoint(block, x, **options)  # pyright: ignore[reportReturnType, reportUnknownVariableType]


def _rope(config: TransformerConfig) -> RotaryEmbedding:
    return RotaryEmbedding(config.d_head, config.context_length, theta=config.rope_theta)


def _linear_rope(config: TransformerConfig) -> RotaryEmbedding:
    return RotaryEmbedding(
        config.d_head, config.context_length, theta=config.rope_theta, stretch=config.rope_factor
    )


def _ntk_rope(config: TransformerConfig) -> RotaryEmbedding:
    theta = ntk_theta(config.rope_theta, config.rope_factor, config.d_head)
    return RotaryEmbedding(config.d_head, config.context_length, theta=theta)


def _leave(model: "TransformerLM") -> None:
    """Leave the weights as the layers start them."""


def _start_at_identity(model: "TransformerLM") -> None:
    """Set what the blocks add, and the logits of an untied head, to zero."""
    for name, weight in model.named_parameters():
        if name.endswith(("output_proj.weight", "ffn.w2.weight", "lm_head.weight")):
            nn.init.zeros_(weight)


def _no_position(_: TransformerConfig) -> NoPosition:
    return NoPosition()


_BLOCKS = {"pre": PreNormBlock, "post": PostNormBlock, "none": NoNormBlock}
_FINAL_NORMS = {"pre": RMSNorm, "post": RMSNorm, "none": NoNorm}
_FEED_FORWARDS = {
    "swiglu": SwiGLU,
    "silu": SiLUFeedForward,
    "relu2": ReLUSquaredFeedForward,
}
_HEAD_NORMS = {"none": NoNorm, "rms": RMSNorm}
_POSITIONS = {
    ("rope", "none"): _rope,
    ("rope", "linear"): _linear_rope,
    ("rope", "ntk"): _ntk_rope,
    ("none", "none"): _no_position,
}
_STARTS = {"glorot": _leave, "identity": _start_at_identity}
_CALLS = {"none": _call, "block": _call_and_forget}


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
        position = _POSITIONS[config.position, config.rope_scaling](config)
        self.token_embeddings = Embedding(
            config.vocab_size, d_model, sd=d_model**-0.5 if config.tie_embeddings else 1.0
        )
        self.layers = nn.ModuleList(
            _BLOCKS[config.norm](
                d_model,
                MultiHeadSelfAttention(
                    d_model,
                    config.num_heads,
                    position=position,
                    num_kv_heads=config.num_kv_heads,
                    qk_norm=_HEAD_NORMS[config.qk_norm],
                    backend=ATTENTION_BACKENDS[config.attention],
                ),
                _FEED_FORWARDS[config.feed_forward](d_model, config.d_ff),
            )
            for _ in range(config.num_layers)
        )
        self._visible = Visibility(config.sliding_window)
        self.ln_final = _FINAL_NORMS[config.norm](d_model)
        self.lm_head = None if config.tie_embeddings else Linear(d_model, config.vocab_size)
        _STARTS[config.start](self)

    def forward(
        self,
        ids: Int[Tensor, "*batch seq"],
        *,
        documents: Int[Tensor, "*#batch seq"] | None = None,
    ) -> Float[Tensor, "*batch seq vocab"]:
        """Return the logits of the token after each position.

        `documents` numbers the document of each token, which then sees its own document only.

        Raises:
            TypeError: if `ids` are not whole numbers.
            ValueError: if a sequence is longer than the context, or an id is not in the vocabulary.
        """
        return self.head(self.hidden(ids, documents=documents))

    def loss(
        self,
        ids: Int[Tensor, "*batch seq"],
        targets: Int[Tensor, "*batch scored"],
        *,
        token_weights: Float[Tensor, "*batch scored"] | None = None,
        ignore_index: int | None = None,
        z_loss: float = 0.0,
        documents: Int[Tensor, "*#batch seq"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the `cross_entropy` of the targets, in nats, without making all the logits.

        Targets fewer than `ids` are those of the last positions; what is before them is context.
        See `linear_cross_entropy`.

        Raises:
            TypeError, ValueError: as `forward` and `linear_cross_entropy`; or if there are more
                targets than ids.
        """
        seq, scored = ids.shape[-1], targets.shape[-1]
        if scored > seq:
            raise ValueError(f"targets must be at most as many as ids, got {scored} for {seq}")
        hidden = self.hidden(ids, documents=documents)
        return linear_cross_entropy(
            hidden if scored == seq else hidden[..., seq - scored :, :],
            self.head_weight,
            targets,
            token_weights=token_weights,
            ignore_index=ignore_index,
            z_loss=z_loss,
            logit_cap=self.config.logit_cap,
            pad_vocab_to=self.config.pad_vocab_to,
        )

    def hidden(
        self,
        ids: Int[Tensor, "*batch seq"],
        positions: Int[Tensor, "*#batch seq"] | None = None,
        *,
        documents: Int[Tensor, "*#batch seq"] | None = None,
        attend: Sequence[Attend] | None = None,
    ) -> Float[Tensor, "*batch seq d_model"]:
        """Return what the head reads: the last block's output after the final norm.

        Args:
            ids: the tokens.
            positions: of the tokens, by default `0 .. seq - 1`.
            documents: see `forward`.
            attend: what takes the place of attention within `ids`, for each layer; see
                `MultiHeadSelfAttention`.
        """
        seq = ids.shape[-1]
        if seq > self.config.context_length:
            raise ValueError(
                f"ids must be at most context_length={self.config.context_length} long, got {seq}"
            )
        visible = self._visible if documents is None else self._visible.of(documents)
        run = _CALLS[self.config.checkpointing]
        x = self.token_embeddings(ids)
        for number, layer in enumerate(self.layers):
            instead = None if attend is None else attend[number]
            block = partial(layer, positions=positions, visible=visible, attend=instead)
            x = run(block, x)
        return self.ln_final(x)

    def head(
        self, hidden: Float[Tensor, "*batch seq d_model"]
    ) -> Float[Tensor, "*batch seq vocab"]:
        """Return the logits of what `hidden` returns."""
        weight, cap = self.head_weight, self.config.logit_cap
        logits = linear(hidden, pad_rows(weight, self.config.pad_vocab_to))[..., : len(weight)]
        return logits if cap is None else soft_cap(logits, cap)

    @property
    def head_weight(self) -> Float[Tensor, "vocab d_model"]:
        """The weight of the head, which is that of the embedding if the two are tied."""
        return self.token_embeddings.weight if self.lm_head is None else self.lm_head.weight
