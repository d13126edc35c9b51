"""A step of decoding with few operations, for a CPU.

A step computes one token in each row, so little that the time goes into everything around the
arithmetic. So the same formulas are put together in another way:

* Weights that read the same input are stacked, and all are kept as `(in, out)`. A product of a
  vector with a matrix then reads memory in the order in which it lies.
* Queries and keys are normed and turned where they lie, in the output of that product.
* Angles are looked up once for all layers; a sum and the product before it are one operation.

The weights are copied when the first step is taken: as much memory again as the model has.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ._activations import relu_squared
from ._blocks import NoNormBlock, PostNormBlock, PreNormBlock
from ._cache import KeyValueCache, Reach, attend_to_all
from ._embedding import Embedding
from ._feedforward import ReLUSquaredFeedForward, SiLUFeedForward, SwiGLU
from ._linear import Linear
from ._losses import soft_cap
from ._norm import NoNorm, RMSNorm
from ._rotary import NoPosition, RotaryEmbedding
from ._self_attention import MultiHeadSelfAttention
from ._transformer import TransformerLM

Block = PreNormBlock | PostNormBlock | NoNormBlock
_KNOWN = {
    *(TransformerLM, nn.ModuleList, PreNormBlock, PostNormBlock, NoNormBlock),
    *(MultiHeadSelfAttention, SwiGLU, SiLUFeedForward, ReLUSquaredFeedForward),
    *(Embedding, Linear, RMSNorm, NoNorm, RotaryEmbedding, NoPosition),
}


def lean_steps_apply(model: TransformerLM) -> bool:
    """Return whether every part of `model` is one that `LeanSteps` knows, in a wide dtype."""
    weights = list(model.parameters())
    return (
        all(type(module) in _KNOWN for module in model.modules())
        and {weight.device.type for weight in weights} == {"cpu"}
        and {weight.dtype for weight in weights} in ({torch.float32}, {torch.float64})
        and not torch.is_autocast_enabled("cpu")
    )


class LeanSteps:
    """Steps of `model` that read and extend `cache`."""

    def __init__(self, model: TransformerLM, cache: KeyValueCache) -> None:
        self.cap = model.config.logit_cap
        self.embedding = model.token_embeddings.weight.detach()
        self.head = _stacked(model.head_weight)
        self.ln_final = _Norm.of(model.ln_final)
        blocks: list[Block] = list(model.layers)  # pyright: ignore[reportAssignmentType]
        self.layers = [
            _LeanBlock(block, cache, buffer)
            for block, buffer in zip(blocks, cache.layers(), strict=True)
        ]
        self.turns = _turns(blocks[0].attn.position, self.embedding.dtype)

    def __call__(self, ids: Int[Tensor, " batch"], reach: Reach) -> Float[Tensor, "batch vocab"]:
        """Return the logits after `ids`, which join the cache."""
        turns = None
        if self.turns is not None:
            turns = self.turns.index_select(0, reach.positions)[:, None]
        x = self.embedding.index_select(0, ids)
        for layer in self.layers:
            x = layer(x, turns, reach)
        logits = self.ln_final(x) @ self.head
        return logits if self.cap is None else soft_cap(logits, self.cap)


class _Norm(NamedTuple):
    """`rms_norm` in a wide dtype; nothing where there is no weight."""

    weight: Tensor | None
    eps: Tensor | float

    @classmethod
    def of(cls, *norms: nn.Module | None) -> "_Norm":
        """Return `norms` as one, with a row of the weight for each if they are more."""
        found = [norm for norm in norms if isinstance(norm, RMSNorm)]
        if len(found) < len(norms):
            return cls(None, 0.0)
        if len(found) == 1:
            return cls(found[0].weight.detach(), found[0].eps)
        weight = torch.stack([norm.weight.detach() for norm in found])
        return cls(weight, weight.new_tensor([[norm.eps] for norm in found]))

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return x
        return (x * self._inverse_rms(x)).mul_(self.weight)

    def in_place(self, x: Tensor) -> None:
        if self.weight is not None:
            x.mul_(self._inverse_rms(x)).mul_(self.weight)

    def _inverse_rms(self, x: Tensor) -> Tensor:
        return (x * x).mean(-1, keepdim=True).add_(self.eps).rsqrt_()


class _LeanBlock:
    """One block, whatever its kind: a norm that it has not is one without a weight."""

    def __init__(self, block: Block, cache: KeyValueCache, buffer: Tensor) -> None:
        attn, ffn = block.attn, block.ffn
        self.rows, self.buffer = cache.rows, buffer
        self.heads, self.kv_heads = attn.num_heads, attn.num_kv_heads
        self.d_head = buffer.shape[-1]
        before = isinstance(block, PreNormBlock)
        after = isinstance(block, PostNormBlock)
        self.before_attn = _Norm.of(block.ln1 if before else None)
        self.before_ffn = _Norm.of(block.ln2 if before else None)
        self.after_attn = _Norm.of(block.ln1 if after else None)
        self.after_ffn = _Norm.of(block.ln2 if after else None)
        norms = [attn.q_norm] * self.heads + [attn.k_norm] * self.kv_heads
        self.head_norm = _Norm.of(*norms)
        self.into_attn = _stacked(attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight)
        self.out_of_attn = _stacked(attn.output_proj.weight)
        self.feed_forward = ffn
        self.into_ffn = _stacked(
            ffn.w1.weight, *([ffn.w3.weight] if isinstance(ffn, SwiGLU) else [])
        )
        self.out_of_ffn = _stacked(ffn.w2.weight)

    def __call__(self, x: Tensor, turns: Tensor | None, reach: Reach) -> Tensor:
        gathered = self._attend(self.before_attn(x), turns, reach)
        z = self.after_attn(torch.addmm(x, gathered, self.out_of_attn))
        inner = self._activate(self.before_ffn(z) @ self.into_ffn)
        return self.after_ffn(torch.addmm(z, inner, self.out_of_ffn))

    def _attend(self, x: Tensor, turns: Tensor | None, reach: Reach) -> Tensor:
        batch = len(x)
        projected = (x @ self.into_attn).view(batch, -1, self.d_head)
        q_and_k = projected[:, : self.heads + self.kv_heads]
        self.head_norm.in_place(q_and_k)
        if turns is not None:
            torch.view_as_complex(q_and_k.view(batch, -1, self.d_head // 2, 2)).mul_(turns)
        q, k_and_v = projected[:, : self.heads], projected[:, self.heads :]
        k_and_v = k_and_v.view(batch, 2, self.kv_heads, self.d_head)
        self.buffer[:, self.rows, :, reach.positions] = k_and_v
        seen = self.buffer[:, :, :, reach.columns]
        return attend_to_all(q.unsqueeze(-2), seen[0], seen[1], reach.mask).view(batch, -1)

    def _activate(self, x: Tensor) -> Tensor:
        if isinstance(self.feed_forward, ReLUSquaredFeedForward):
            return relu_squared(x)
        if isinstance(self.feed_forward, SiLUFeedForward):
            return torch.sigmoid(x).mul_(x)
        gate, value = x.chunk(2, -1)
        return torch.sigmoid(gate).mul_(gate).mul_(value)


def _stacked(*weights: Tensor) -> Tensor:
    """Return the weights of products with one input as a matrix `(in, out)`."""
    return torch.cat([weight.detach() for weight in weights]).T.contiguous()


def _turns(position: RotaryEmbedding | NoPosition, dtype: torch.dtype) -> Tensor | None:
    """Return `cos + i sin` for each position and pair."""
    if isinstance(position, NoPosition):
        return None
    return torch.complex(position.cos.to(dtype), position.sin.to(dtype))
