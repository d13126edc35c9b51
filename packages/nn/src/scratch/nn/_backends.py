"""Ways to compute causal self-attention: one promise, several machines.

Each takes queries `(*batch, heads, seq, d_head)`, keys and values `(*batch, kv_heads, seq, d_head)`
and what may be seen, and returns `(*batch, heads, seq, d_head)`. Where there are fewer key heads
than query heads, each serves a group of neighbouring ones (Ainslie et al., 2023, arXiv:2305.13245).
"""

import logging
from functools import cache
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention as torch_attention

from ._attention import scaled_dot_product_attention
from ._block_causal import BlockCausal
from ._forms import plain_forms_wanted
from ._visibility import Visibility

_LONGEST_FOR_BLOCKS = 512
_QUERIES_OF_A_BLOCK = 128
_log = logging.getLogger(__name__)


@runtime_checkable
class AttentionBackend(Protocol):
    """Self-attention of `heads` query heads over `kv_heads` key heads."""

    def __call__(
        self,
        q: Float[Tensor, "*batch heads seq d_head"],
        k: Float[Tensor, "*batch kv_heads seq d_head"],
        v: Float[Tensor, "*batch kv_heads seq d_head"],
        visible: Visibility,
    ) -> Float[Tensor, "*batch heads seq d_head"]: ...


def reference_attention(
    q: Float[Tensor, "*batch heads seq d_head"],
    k: Float[Tensor, "*batch kv_heads seq d_head"],
    v: Float[Tensor, "*batch kv_heads seq d_head"],
    visible: Visibility,
) -> Float[Tensor, "*batch heads seq d_head"]:
    """Attend by the formula, with the whole matrix of scores."""
    heads = q.shape[-3]
    mask = visible.mask(q.shape[-2], device=q.device)
    return scaled_dot_product_attention(q, share_heads(k, heads), share_heads(v, heads), mask)


def block_attention(
    q: Float[Tensor, "*batch heads seq d_head"],
    k: Float[Tensor, "*batch kv_heads seq d_head"],
    v: Float[Tensor, "*batch kv_heads seq d_head"],
    visible: Visibility,
) -> Float[Tensor, "*batch heads seq d_head"]:
    """Attend in blocks of queries, which skips most of what causality hides; for short contexts.

    Raises:
        ValueError: if there are documents.
    """
    if visible.documents is not None:
        raise ValueError('documents need attention="reference", "fused" or "flex", got "block"')
    heads, batch = q.shape[-3], q.shape[:-2]
    k, v = share_heads(k, heads), share_heads(v, heads)
    q, k, v = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    out = BlockCausal.apply(q, k, v, _QUERIES_OF_A_BLOCK, visible.window)
    return out.view(*batch, *out.shape[-2:])


def fused_attention(
    q: Float[Tensor, "*batch heads seq d_head"],
    k: Float[Tensor, "*batch kv_heads seq d_head"],
    v: Float[Tensor, "*batch kv_heads seq d_head"],
    visible: Visibility,
) -> Float[Tensor, "*batch heads seq d_head"]:
    """Attend by torch's fused kernel: flash attention, cuDNN's or what the device has.

    A window or documents are given to it as a mask, which rules the flash kernel out on most
    devices.
    """
    heads, batch = q.shape[-3], q.shape[:-3]
    plain = visible.window is None and visible.documents is None
    mask = None if plain else visible.mask(q.shape[-2], device=q.device)
    if mask is not None and visible.documents is not None:
        mask = mask.expand(*batch, *mask.shape[-3:]).reshape(-1, *mask.shape[-3:])
    if q.device.type == "cpu":  # its kernels do not share heads
        k, v = share_heads(k, heads), share_heads(v, heads)
    grouped = k.shape[-3] != heads
    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    out = torch_attention(q, k, v, mask, is_causal=plain, enable_gqa=grouped)
    return out.view(*batch, *out.shape[-3:])


def flex_attention_backend(
    q: Float[Tensor, "*batch heads seq d_head"],
    k: Float[Tensor, "*batch kv_heads seq d_head"],
    v: Float[Tensor, "*batch kv_heads seq d_head"],
    visible: Visibility,
) -> Float[Tensor, "*batch heads seq d_head"]:
    """Attend by torch's flex attention, which skips blocks that a window or documents hide.

    On a GPU it is compiled at the first call; on a CPU it runs as the formula does.

    Raises:
        NotImplementedError: if a gradient is wanted on a CPU, where torch has none.
    """
    if q.device.type == "cpu" and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise NotImplementedError(
            'attention="flex" has no gradient on a CPU; "auto", "reference" and "fused" have one'
        )
    batch, seq = q.shape[:-3], q.shape[-2]
    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    documents = visible.documents
    if documents is not None:
        documents = documents.expand(*batch, seq).reshape(-1, seq)
    visible = Visibility(visible.window, documents)
    sequences = None if documents is None else len(documents)
    mask = create_block_mask(
        # A lambda, as torch counts the arguments, which a decorated function would hide.
        lambda sequence, _, query, key: _sees(visible, sequence, query, key),
        sequences,
        None,
        seq,
        seq,
        device=q.device,
    )
    grouped = k.shape[-3] != q.shape[-3]
    eager_on_gpu = q.device.type == "cuda" and not torch.compiler.is_compiling()
    attend: Any = _compiled_flex() if eager_on_gpu else flex_attention
    out = attend(q, k, v, block_mask=mask, enable_gqa=grouped)
    return out.view(*batch, *out.shape[-3:])


def automatic_attention(
    q: Float[Tensor, "*batch heads seq d_head"],
    k: Float[Tensor, "*batch kv_heads seq d_head"],
    v: Float[Tensor, "*batch kv_heads seq d_head"],
    visible: Visibility,
) -> Float[Tensor, "*batch heads seq d_head"]:
    """Attend by the backend that suits the device and the shapes; log the choice once."""
    name = _choose(q, visible)
    if not torch.compiler.is_compiling():
        _say_once(name, q.device.type)
    return ATTENTION_BACKENDS[name](q, k, v, visible)


ATTENTION_BACKENDS: dict[str, AttentionBackend] = {
    "auto": automatic_attention,
    "reference": reference_attention,
    "block": block_attention,
    "fused": fused_attention,
    "flex": flex_attention_backend,
}


def share_heads(
    x: Float[Tensor, "*batch kv_heads seq d_head"], heads: int
) -> Float[Tensor, "*batch heads seq d_head"]:
    """Repeat each key or value head for the group of query heads that it serves."""
    groups = heads // x.shape[-3]
    return x if groups == 1 else x.repeat_interleave(groups, dim=-3)


def _choose(q: Tensor, visible: Visibility) -> str:
    if plain_forms_wanted():
        return "reference"
    if q.device.type == "cuda":
        plain = visible.window is None and visible.documents is None
        return "fused" if plain else "flex"
    if q.device.type == "cpu":
        if q.dtype == torch.float16:
            return "reference"  # its scores may be too large for float16
        if visible.documents is None and q.shape[-2] <= _LONGEST_FOR_BLOCKS:
            return "block"
    return "fused"


@cache
def _say_once(name: str, device: str) -> None:
    _log.info("attention: %s, chosen for %s", name, device)


def _sees(visible: Visibility, sequence: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return whether `query` sees `key`, for single positions."""
    seen = query >= key
    if visible.window is not None:
        seen = seen & (query - key < visible.window)
    if visible.documents is not None:
        numbers = visible.documents
        seen = seen & (numbers[sequence, query] == numbers[sequence, key])
    return seen


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
