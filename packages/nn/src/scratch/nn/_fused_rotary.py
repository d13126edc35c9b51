"""The rotation of pairs as a product of complex numbers.

A pair (x_2k, x_2k+1) is the complex number x_2k + i x_2k+1; turning it by an angle multiplies it by
cos + i sin. The gradient is the gradient of the result turned back: times cos - i sin.
"""

from typing import Any

import torch
from torch import Tensor

from ._forms import differentiable_once


class FusedRotation(torch.autograd.Function):
    """`rotate_pairs(x, cos, sin)` for tables that need no gradient; differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        turns = torch.complex(cos.to(wide), sin.to(wide))
        ctx.save_for_backward(turns)
        return _turn(x, turns)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (turns,) = ctx.saved_tensors
        return _turn(g, turns.conj()), None, None


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Return `x` times `turns`, with contiguous rows whatever the strides of `x`."""
    wide: Tensor = x.to(torch.promote_types(x.dtype, torch.float32))
    whole = not wide.storage_offset() % 2 and not any(stride % 2 for stride in wide.stride()[:-1])
    if wide.stride(-1) != 1 or not whole:
        wide = wide.clone(memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    result = torch.empty(pairs.shape, dtype=pairs.dtype, device=pairs.device)
    torch.mul(pairs, turns, out=result)
    return torch.view_as_real(result).flatten(-2).to(x.dtype)
