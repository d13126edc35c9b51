"""Gradient clipping by the global norm (Pascanu et al., 2013, arXiv:1211.5063, algorithm 1)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._masked import widen


@torch.no_grad()
def clip_grad_norm(
    params: Iterable[nn.Parameter] | nn.Parameter, max_norm: float
) -> Float[Tensor, ""]:
    """Scale all gradients in place by `max_norm / (norm + 1e-6)` if their norm exceeds `max_norm`.

    The norm is one L2 norm over all gradients that exist, in float32 or wider. Nothing is read back
    from the device. A norm that is not finite is returned as it is, and scales nothing.

    Args:
        params: any iterable of parameters, a generator too; or one parameter.
        max_norm: the greatest norm to leave as it is.

    Returns:
        The norm before clipping, zero if there is no gradient.

    Raises:
        ValueError: if `max_norm` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    params = [params] if isinstance(params, nn.Parameter) else params
    gradients = [p.grad for p in params if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    squares = [widen(gradient).square().sum().to(gradients[0].device) for gradient in gradients]
    norm = torch.stack(squares).sum().sqrt()
    too_long = (norm > max_norm) & norm.isfinite()
    scale = torch.where(too_long, max_norm / (norm + 1e-6), 1.0)
    for gradient in gradients:
        wide = widen(gradient)
        gradient.copy_(wide * scale.to(wide))  # rounded once, to the dtype of the gradient
    return norm
