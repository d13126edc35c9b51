"""The gate of SwiGLU, `silu(a) b`, with its gradient written by hand.

With s = sigmoid(a) and the gradient g of the result:

    d a = g b (s + a s (1 - s))
    d b = g a s
"""

from typing import Any

import torch
from torch import Tensor

from ._forms import differentiable_once


class FusedSiLUGate(torch.autograd.Function):
    """`silu(a) * b`; differentiable once."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        s = torch.sigmoid(a)
        ctx.save_for_backward(a, b, s)
        return (a * s).mul_(b)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b, s = ctx.saved_tensors
        activated = a * s
        d_b = g * activated
        d_a = activated.addcmul_(activated, s, value=-1).add_(s).mul_(g).mul_(b)
        return d_a, d_b
