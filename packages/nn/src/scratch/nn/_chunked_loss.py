"""The loss of a linear head, and its gradients, from a chunk of rows at a time.

For a row with logits z, L = log(sum(exp(z))), target t and share w of the mean:

    loss     = w (L - z_t + z_loss L^2)
    d z      = w ((1 + 2 z_loss L) softmax(z) - onehot(t))
    d hidden = d z W
    d W      = sum over rows of d z^T hidden

With a cap c, z = c tanh(y / c) of the products y, and d y = d z (1 - tanh(y / c)^2).

Exponentials are made as powers of two, exp(x) = 2^(x log2 e), with log2 e taken along by the matrix
product: torch's `exp` is several times slower on many CPUs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._forms import without_autocast
from ._linear import pad_rows

_LOG2_E = math.log2(math.e)
# In float16 the gradients by logits of a long batch would vanish, and their products overflow.
_FLOAT16_LOGIT_GAIN, _FLOAT16_FACTOR = 1024.0, 1 / 32


def gradient_gain(dtype: torch.dtype) -> float:
    """Return what the gradients of a `LossPlan` with products of `dtype` are multiplied by."""
    return _FLOAT16_LOGIT_GAIN * _FLOAT16_FACTOR if dtype == torch.float16 else 1.0


@dataclass(frozen=True)
class LossPlan:
    """How the loss is computed: dtype of the products, chunks, and which gradients are wanted.

    A cap of zero is none. The vocabulary is padded, for the products only, to a multiple of
    `pad_vocab_to`.
    """

    dtype: torch.dtype
    chunk_rows: int
    pad_vocab_to: int
    z_loss: float
    logit_cap: float
    for_hidden: bool
    for_weight: bool

    @property
    def gain(self) -> float:
        """What the gradients that come out are multiplied by."""
        return gradient_gain(self.dtype)

    @property
    def logit_gain(self) -> float:
        """What the gradients by logits are multiplied by on the way."""
        return _FLOAT16_LOGIT_GAIN if self.dtype == torch.float16 else 1.0

    def factor(self, x: Tensor) -> Tensor:
        """Return `x` as a factor of a product with gradients by logits."""
        return x * _FLOAT16_FACTOR if self.dtype == torch.float16 else x


def loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, shares: Tensor, plan: LossPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, and `plan.gain` times its gradients, empty where nobody wants them.

    `hidden` is `(rows, d_model)`, `targets` and `shares` `(rows,)`.
    """
    with torch.no_grad(), without_autocast(hidden.device.type):
        wide = shares.dtype
        vocab = len(weight)
        head = pad_rows(weight.to(plan.dtype), plan.pad_vocab_to)
        head_factor = plan.factor(head)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if plan.for_hidden else hidden.new_empty(0)
        d_weight = weight.new_empty(0)
        if plan.for_weight:
            wide_weight = torch.promote_types(weight.dtype, torch.float32)
            d_weight = torch.empty_like(head, dtype=wide_weight)
        shape = (min(plan.chunk_rows, len(hidden)), len(head))
        products = torch.empty(shape, dtype=plan.dtype, device=hidden.device)
        same = plan.dtype == wide
        logits = products if same else torch.empty(shape, dtype=wide, device=hidden.device)
        for start in range(0, len(hidden), plan.chunk_rows):
            rows = slice(start, start + plan.chunk_rows)
            chunk = hidden[rows].to(plan.dtype)
            size = len(chunk)
            scale = 1 / plan.logit_cap if plan.logit_cap else _LOG2_E
            out = products[:size]
            torch.addmm(out, chunk, head.T, beta=0, alpha=scale, out=out)
            # Of a row of padding no logit is taken, and no gradient written: its products are zero.
            scaled = logits[:size, :vocab].copy_(out[:, :vocab])
            part, d_logits = _chunk_loss(scaled, targets[rows], shares[rows], plan)
            loss += part
            out[:, :vocab].copy_(d_logits)
            if plan.for_hidden:
                d_hidden[rows] = out @ head_factor
            if plan.for_weight:
                _add_product(d_weight, out.T, plan.factor(chunk), first=start == 0)
        return loss, d_hidden, d_weight[:vocab].to(weight.dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """Add `a @ b` to `total`, or write it there if it is the first."""
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, beta=0 if first else 1, out=total)
    elif first:
        total.copy_(a @ b)
    else:
        total += a @ b


def _chunk_loss(
    scaled: Tensor, targets: Tensor, shares: Tensor, plan: LossPlan
) -> tuple[Tensor, Tensor]:
    """Return the loss of some rows, and its gradient by their logits, written over `scaled`.

    `scaled` is the products of the head times log2(e), or divided by the cap if there is one.
    """
    targets, shares = targets[:, None], shares[:, None]
    with_gradients = plan.for_hidden or plan.for_weight
    slope = None
    if plan.logit_cap:
        tanh = scaled.tanh_()
        slope = 1 - tanh.square() if with_gradients else None
        scaled = tanh.mul_(plan.logit_cap * _LOG2_E)
    chosen = scaled.gather(-1, targets)
    maximum = scaled.amax(-1, keepdim=True)
    exponentials = scaled.sub_(maximum).exp2_()
    sums = exponentials.sum(-1, keepdim=True)
    normalizer = (sums.log2() + maximum) / _LOG2_E
    losses = normalizer - chosen / _LOG2_E
    steps = shares * plan.logit_gain
    factor = steps
    if plan.z_loss:
        losses = losses + plan.z_loss * normalizer.square()
        factor = steps * (1 + 2 * plan.z_loss * normalizer)
    loss = (losses * shares).sum()
    if not with_gradients:
        return loss, exponentials
    d_logits = exponentials.mul_(factor / sums)
    d_logits.scatter_add_(-1, targets, -steps)
    return loss, d_logits if slope is None else d_logits.mul_(slope)
