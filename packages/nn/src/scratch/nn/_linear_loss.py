"""Linear head and cross-entropy in one, without ever holding all logits.

The logits of a language model are its largest tensor by far, and torch's loss holds them three
times. Here they are made for a chunk of rows at a time, turned into their own gradient in place,
multiplied back onto hidden states and weight, and overwritten by the next chunk. So both gradients
are ready when the loss is, and the backward pass only scales them (the idea of chunking is old; the
gradients in the forward pass are those of Hsu et al., 2024, arXiv:2410.10989, section 3.2).
"""

from dataclasses import astuple
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import check_at_least_one
from ._chunked_loss import LossPlan, loss_and_gradients
from ._forms import differentiable_once, matmul_dtype, plain_forms_wanted
from ._linear import linear
from ._loss_operator import loss_operator
from ._losses import cross_entropy, soft_cap, weighted_targets

_LOGITS_OF_A_CHUNK = 2**21


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, "vocab d_model"],
    targets: Int[Tensor, "*batch"],
    *,
    token_weights: Float[Tensor, "*batch"] | None = None,
    ignore_index: int | None = None,
    z_loss: float = 0.0,
    logit_cap: float | None = None,
    chunk_rows: int | None = None,
    pad_vocab_to: int = 1,
) -> Float[Tensor, ""]:
    """Return `cross_entropy(soft_cap(linear(hidden, weight), logit_cap), targets, ...)`.

    The largest tensor made is `chunk_rows` rows of logits; and, for the gradients, one of the size
    of `hidden` and one of the size of `weight`. Under autocast the products are made in its dtype,
    the sums in float32.

    Args:
        hidden: what the head reads.
        weight: of the head.
        targets, token_weights, ignore_index, z_loss: see `cross_entropy`.
        logit_cap: see `soft_cap`; `None` for no cap.
        chunk_rows: rows of logits that are made at a time; by default about two million logits on
            a CPU, 64 times as many elsewhere.
        pad_vocab_to: make the products with a weight padded by rows of zeros to a multiple of so
            many, which matrix units like; the padding never counts.

    Raises:
        TypeError: if `targets` are not whole numbers.
        ValueError: if the shapes do not fit, there is no target, one is not in `0 .. vocab - 1`
            (checked on the CPU), `logit_cap` is not positive, or `token_weights` want a gradient.
    """
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(
            "targets must have the shape of hidden without the last axis, "
            f"got hidden {tuple(hidden.shape)}, targets {tuple(targets.shape)}"
        )
    if logit_cap is not None and not logit_cap > 0:
        raise ValueError(f"logit_cap must be positive, got {logit_cap}")
    if token_weights is not None and token_weights.requires_grad:
        raise ValueError("token_weights must not require a gradient; only cross_entropy gives one")
    if plain_forms_wanted():
        logits = linear(hidden, weight)
        return cross_entropy(
            logits if logit_cap is None else soft_cap(logits, logit_cap),
            targets,
            token_weights=token_weights,
            ignore_index=ignore_index,
            z_loss=z_loss,
        )
    vocab = weight.shape[0]
    if chunk_rows is None:
        logits = _LOGITS_OF_A_CHUNK if hidden.device.type == "cpu" else 64 * _LOGITS_OF_A_CHUNK
        chunk_rows = max(256, logits // vocab)
    check_at_least_one(chunk_rows=chunk_rows, pad_vocab_to=pad_vocab_to)
    indices, shares = weighted_targets(
        targets, token_weights, ignore_index=ignore_index, vocab=vocab, dtype=hidden.dtype
    )
    wide = torch.promote_types(hidden.dtype, torch.float32)
    if shares is None:
        shares = torch.full(targets.shape, 1 / targets.numel(), dtype=wide, device=hidden.device)
    learning = torch.is_grad_enabled()
    plan = LossPlan(
        dtype=matmul_dtype(hidden),
        chunk_rows=chunk_rows,
        pad_vocab_to=pad_vocab_to,
        z_loss=z_loss,
        logit_cap=logit_cap or 0.0,
        for_hidden=learning and hidden.requires_grad,
        for_weight=learning and weight.requires_grad,
    )
    inputs = (
        hidden.reshape(-1, hidden.shape[-1]),
        weight,
        indices.flatten(),
        shares.flatten().to(wide),
    )
    if torch.compiler.is_compiling():
        return loss_operator(*inputs, *astuple(plan))[0]
    if plan.for_hidden or plan.for_weight:
        return _LinearCrossEntropy.apply(*inputs, plan)
    return loss_and_gradients(*inputs, plan)[0]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, shares: Tensor, plan: LossPlan
    ) -> Tensor:
        loss, *gradients = loss_and_gradients(hidden, weight, targets, shares, plan)
        ctx.save_for_backward(*gradients)
        ctx.wanted, ctx.gain = (plan.for_hidden, plan.for_weight), plan.gain
        return loss

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A loss that is not scaled, by far the most frequent, needs no more memory.
        as_they_are = ctx.gain == 1 and g.device.type == "cpu" and bool(g == 1)
        d_hidden, d_weight = (
            None if not wanted else gradient if as_they_are else gradient * (g / ctx.gain)
            for gradient, wanted in zip(ctx.saved_tensors, ctx.wanted, strict=True)
        )
        return d_hidden, d_weight, None, None, None
