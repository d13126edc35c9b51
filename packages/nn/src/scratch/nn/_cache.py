"""A cache of keys and values: what a token leaves for those after it is computed once.

Attention is the only part of a Transformer in which tokens meet, and causal attention asks of an
earlier token nothing but its key and its value, which do not change. So they are kept, and each
step computes one token for each row instead of the whole window.

The buffers are allocated once. A row of the batch keeps the token at position p in column p, so
prompts of different lengths stand side by side, each with a position of its own.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as torch_attention

from ._attention import scaled_dot_product_attention
from ._backends import AttentionBackend
from ._config import TransformerConfig
from ._visibility import Visibility


class KeyValueCache(nn.Module):
    """For each layer a buffer `(2, batch, kv_heads, capacity, d_head)`: keys, then values.

    A module, since the compiler takes the buffers of modules for memory that stays where it is,
    which CUDA graphs need. The buffers start as zeros: a column that is hidden has the weight
    zero, and so has what it holds, unless that is not a number.

    Args:
        config: of the model.
        batch: rows.
        capacity: the most tokens of a row.
        like: gives dtype and device.
    """

    columns: Tensor
    rows: Tensor

    def __init__(
        self, config: TransformerConfig, *, batch: int, capacity: int, like: Tensor
    ) -> None:
        super().__init__()
        self.capacity = capacity
        shape = (2, batch, config.kv_heads, capacity, config.d_head)
        for number in range(config.num_layers):
            buffer = torch.zeros(shape, dtype=like.dtype, device=like.device)
            self.register_buffer(f"layer_{number}", buffer, persistent=False)
        self.register_buffer("columns", torch.arange(capacity, device=like.device), False)
        self.register_buffer("rows", torch.arange(batch, device=like.device), False)

    def layers(self) -> list[Tensor]:
        """Return the buffers, in the order of the layers."""
        return [buffer for name, buffer in self.named_buffers() if name.startswith("layer_")]


class ReadPrompt:
    """Attention within a prompt, whose keys and values go into `buffer`."""

    def __init__(self, buffer: Tensor, backend: AttentionBackend, window: int | None) -> None:
        self.buffer, self.backend, self.visible = buffer, backend, Visibility(window)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.buffer[0, :, :, : k.shape[-2]] = k
        self.buffer[1, :, :, : v.shape[-2]] = v
        return self.backend(q, k, v, self.visible)


class Reach(NamedTuple):
    """Where the new tokens of a step stand, one in each row, and what of the cache they read.

    Attributes:
        positions: of the new tokens; where their keys and values go.
        columns: which part of the cache is read.
        mask: where a row sees a column of that part; `None` if it sees all.
    """

    positions: Int[Tensor, " batch"]
    columns: slice
    mask: Bool[Tensor, "batch 1 1 columns"] | None


class ReadNext:
    """Attention of one new token in each row to the tokens in `buffer`, which it joins."""

    def __init__(self, buffer: Tensor, rows: Int[Tensor, " batch"], reach: Reach) -> None:
        self.buffer, self.rows, self.reach = buffer, rows, reach

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k_and_v = torch.stack((k, v)).to(self.buffer.dtype).squeeze(-2)  # under autocast narrower
        self.buffer[:, self.rows, :, self.reach.positions] = k_and_v.transpose(0, 1)
        seen = self.buffer[:, :, :, self.reach.columns]
        return attend_to_all(q, seen[0], seen[1], self.reach.mask)


def visible_columns(
    columns: Int[Tensor, " columns"], positions: Int[Tensor, " batch"], window: int | None
) -> Bool[Tensor, "batch 1 1 columns"]:
    """Return True where a token at its position sees a column: as `Visibility` has it."""
    distance = positions[:, None, None, None] - columns
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def attend_to_all(
    q: Float[Tensor, "batch heads 1 d_head"],
    k: Float[Tensor, "batch kv_heads key d_head"],
    v: Float[Tensor, "batch kv_heads key d_head"],
    mask: Bool[Tensor, "batch 1 1 key"] | None,
) -> Float[Tensor, "batch heads 1 d_head"]:
    """Return what one query in each head gathers from all keys that `mask` lets it see.

    The queries that share a key head stand in for a sequence: no key is copied for them.
    """
    grouped = q.reshape(*k.shape[:2], -1, q.shape[-1])
    # In float16 the scores might be too large for it.
    narrow = q.dtype == torch.float16 and q.device.type == "cpu"
    attention: Any = scaled_dot_product_attention if narrow else torch_attention
    return attention(grouped, k, v, mask).reshape(q.shape)
