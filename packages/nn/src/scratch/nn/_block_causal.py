"""Causal attention in blocks of queries, for short contexts on a CPU.

Half of the causal scores are never looked at. A block of queries is multiplied with the keys up to
its own end only, so most of that half is never made. Forward, with E = exp(S - max S) of a block,
l the row sums of E and the weights P = E / l:

    O = (E V) / l

E is kept for the gradient. It is never divided by l: what is multiplied with it is, which is
narrower. With G the gradient of O and D the row sums of G O (Dao, 2022, arXiv:2205.14135, eq. 4):

    dV += E^T (G / l)
    dS  = P (G V^T - D) = E ((G / l) V^T - D / l)
    dQ  = dS K / sqrt(d)
    dK += dS^T Q / sqrt(d)

Exponentials are made as powers of two, exp(x) = 2^(x log2 e), with log2 e taken along by the matrix
product: torch's `exp` is several times slower on many CPUs.

Memory grows with the square of the sequence, as in the plain form; the gain is speed.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._forms import differentiable_once

_LOG2_E = math.log2(math.e)


class BlockCausal(torch.autograd.Function):
    """Attention of `(batch, seq, d_head)` with `block` queries at a time; differentiable once.

    A query sees at most `window` keys, itself included, if it is given.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, block: int, window: int | None
    ) -> Tensor:
        seq, scale = q.shape[-2], 1 / math.sqrt(q.shape[-1])
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.empty_like(v)
        kept: list[Tensor] = []
        for queries, keys in _blocks(seq, block, window):
            rows, columns = slice(*queries), slice(*keys)
            products = _product(q[:, rows], k[:, columns].mT, scale * _LOG2_E)
            scores = products.to(wide)  # the same tensor, if that is its dtype
            _hide(scores, queries, keys, window)
            scores.sub_(scores.amax(-1, keepdim=True)).exp2_()
            sums = scores.sum(-1, keepdim=True)
            exponentials = products.copy_(scores)
            out[:, rows] = torch.bmm(exponentials, v[:, columns]).div_(sums)
            kept += [exponentials, sums]
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.block, ctx.window = block, window
        return out

    @staticmethod
    @differentiable_once
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, g: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        q, k, v, out, *kept = ctx.saved_tensors
        seq, scale = q.shape[-2], 1 / math.sqrt(q.shape[-1])
        wide = torch.promote_types(q.dtype, torch.float32)
        d_q, d_k, d_v = torch.empty_like(q), None, None
        inner = (g * out).sum(-1, keepdim=True, dtype=wide)
        blocks = zip(_blocks(seq, ctx.block, ctx.window), kept[::2], kept[1::2], strict=True)
        # From the last one, which sees all keys if there is no window: the others add to it.
        for (queries, keys), exponentials, sums in reversed(list(blocks)):
            rows, columns = slice(*queries), slice(*keys)
            scaled = (g[:, rows] / sums).to(g.dtype)
            d_v = _added(d_v, torch.bmm(exponentials.mT, scaled), columns, like=v)
            products = torch.bmm(scaled, v[:, columns].mT)
            d_scores = products.to(wide).sub_(inner[:, rows] / sums).mul_(exponentials)
            d_scores = products.copy_(d_scores)
            d_q[:, rows] = _product(d_scores, k[:, columns], scale)
            d_k = _added(d_k, _product(d_scores.mT, q[:, rows], scale), columns, like=k)
        return d_q, d_k, d_v, None, None


def _blocks(
    seq: int, block: int, window: int | None
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return, for each block of queries, its bounds and those of the keys that it sees."""
    bounds = [(start, min(start + block, seq)) for start in range(0, seq, block)]
    return [
        ((start, stop), (0 if window is None else max(0, start - window + 1), stop))
        for start, stop in bounds
    ]


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return `scale * a @ b`, the scale taken along by the matrix product."""
    return torch.baddbmm(a.new_zeros(()), a, b, beta=0, alpha=scale)


def _added(total: Tensor | None, part: Tensor, columns: slice, *, like: Tensor) -> Tensor:
    """Return `total` with `part` added at `columns`; `None` stands for zeros."""
    if total is None:
        if part.shape == like.shape:
            return part
        total = torch.zeros_like(like)
    total[:, columns] += part
    return total


def _hide(
    scores: Tensor, queries: tuple[int, int], keys: tuple[int, int], window: int | None
) -> None:
    """Add minus infinity to the scores that a query may not see."""
    (start, stop), first = queries, keys[0]
    # Every key before `start` is seen by the whole block, unless a window says otherwise.
    begin = start if window is None else first
    hidden = scores.new_full((stop - start, stop - begin), -torch.inf)
    # Column j of row i is key begin + j of query start + i: hidden where j > i + start - begin.
    hidden = hidden.triu(start - begin + 1)
    if window is not None:
        hidden += torch.full_like(hidden, -torch.inf).tril(start - begin - window)
    scores[:, :, begin - first :].add_(hidden)
