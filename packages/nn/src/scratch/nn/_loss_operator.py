"""The loss of a linear head as an operator that a compiler takes as it is.

Traced, the loop over chunks would be unrolled into the graph and tied to the number of rows. As an
operator it is one node, whatever the number of rows, and runs as it runs without a compiler.
"""

from typing import Any

import torch
from torch import Tensor

from ._chunked_loss import LossPlan, gradient_gain, loss_and_gradients


@torch.library.custom_op("scratch_nn::linear_cross_entropy", mutates_args=())
def loss_operator(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    shares: Tensor,
    dtype: torch.dtype,
    chunk_rows: int,
    pad_vocab_to: int,
    z_loss: float,
    logit_cap: float,
    for_hidden: bool,
    for_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `loss_and_gradients` returns; the last arguments are a `LossPlan`."""
    plan = LossPlan(dtype, chunk_rows, pad_vocab_to, z_loss, logit_cap, for_hidden, for_weight)
    return loss_and_gradients(hidden, weight, targets, shares, plan)


@loss_operator.register_fake  # pyright: ignore[reportUnknownMemberType]
def _shapes(  # pyright: ignore[reportUnusedFunction]
    hidden: Tensor, weight: Tensor, _targets: Tensor, shares: Tensor, *plan: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *_, for_hidden, for_weight = plan
    return (
        shares.new_empty(()),
        torch.empty_like(hidden) if for_hidden else hidden.new_empty(0),
        torch.empty_like(weight) if for_weight else weight.new_empty(0),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.wanted, ctx.gain = inputs[-2:], gradient_gain(inputs[4])


def _backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    gradients = (
        gradient * (g / ctx.gain) if wanted else None
        for gradient, wanted in zip(ctx.saved_tensors, ctx.wanted, strict=True)
    )
    return (*gradients, *[None] * 9)


loss_operator.register_autograd(_backward, setup_context=_keep)  # pyright: ignore[reportUnknownMemberType]
