"""The loss of a linear head, and its gradients, from a chunk of rows at a time.

For a row with logits z, L = log(sum(exp(z))), target t and share w of the mean:

    loss     = w (L - z_t + z_loss L^2)
    d z      = w ((1 + 2 z_loss L) softmax(z) - onehot(t))
    d hidden = d z W
    d W      = sum over rows of d z^T hidden

With a cap c, z = c tanh(y / c) of the products y, and d y = d z (1 - tanh(y / c)^2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossPlan:
    """How the loss is computed: dtype of the products, chunks, and which gradients are wanted."""

    dtype: torch.dtype
    chunk_rows: int
    z_loss: float
    logit_cap: float
    for_hidden: bool
    for_weight: bool


def loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, shares: Tensor, plan: LossPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, and its gradients by `hidden` and `weight`, empty where nobody wants them.

    `hidden` is `(rows, d_model)`, `targets` and `shares` `(rows,)`.
    """
    device = hidden.device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        wide = shares.dtype
        head = weight.to(plan.dtype)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if plan.for_hidden else hidden.new_empty(0)
        d_weight = weight.new_empty(0)
        if plan.for_weight:
            wide_weight = torch.promote_types(weight.dtype, torch.float32)
            d_weight = torch.zeros_like(weight, dtype=wide_weight)
        buffer = torch.empty(
            min(plan.chunk_rows, len(hidden)), len(head), dtype=plan.dtype, device=hidden.device
        )
        for start in range(0, len(hidden), plan.chunk_rows):
            rows = slice(start, start + plan.chunk_rows)
            chunk = hidden[rows].to(plan.dtype)
            logits = torch.mm(chunk, head.T, out=buffer[: len(chunk)]).to(wide)
            part, d_logits = _chunk_loss(logits, targets[rows], shares[rows], plan)
            loss += part
            d_logits = d_logits.to(plan.dtype)
            if plan.for_hidden:
                d_hidden[rows] = d_logits @ head
            if plan.for_weight and plan.dtype == d_weight.dtype:
                d_weight.addmm_(d_logits.T, chunk)
            elif plan.for_weight:
                d_weight += d_logits.T @ chunk
        return loss, d_hidden, d_weight.to(weight.dtype)


def _chunk_loss(
    logits: Tensor, targets: Tensor, shares: Tensor, plan: LossPlan
) -> tuple[Tensor, Tensor]:
    """Return the loss of some rows, and its gradient by their logits, written over them."""
    targets, shares = targets[:, None], shares[:, None]
    slope = None
    if plan.logit_cap:
        tanh = logits.div_(plan.logit_cap).tanh_()
        slope = 1 - tanh.square() if plan.for_hidden or plan.for_weight else None
        logits = tanh.mul_(plan.logit_cap)
    chosen = logits.gather(-1, targets)
    maximum = logits.amax(-1, keepdim=True)
    exponentials = logits.sub_(maximum).exp_()
    sums = exponentials.sum(-1, keepdim=True)
    normalizer = sums.log() + maximum
    losses = normalizer - chosen
    factor = shares
    if plan.z_loss:
        losses = losses + plan.z_loss * normalizer.square()
        factor = shares * (1 + 2 * plan.z_loss * normalizer)
    loss = (losses * shares).sum()
    if not (plan.for_hidden or plan.for_weight):
        return loss, exponentials
    d_logits = exponentials.mul_(factor / sums)
    d_logits.scatter_add_(-1, targets, -shares)
    return loss, d_logits if slope is None else d_logits.mul_(slope)
