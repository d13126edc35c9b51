"""Gradient clipping by the global norm (Pascanu et al., 2013, arXiv:1211.5063, algorithm 1)."""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ._batches import readable
from ._masked import wide_dtype, widen
from ._norms import norm_of
from ._shards import local


@torch.no_grad()
def clip_grad_norm(params: Iterable[Tensor] | Tensor, max_norm: float) -> Float[Tensor, ""]:
    """Scale all gradients in place by `max_norm / (norm + 1e-6)` if their norm exceeds `max_norm`.

    The norm is one L2 norm over all gradients that exist, in float32 or wider. Nothing is read back
    from the device. A norm that is not finite is returned as it is, and scales nothing; so is one
    in float32 that is infinite because a gradient has finite entries beyond 1e19. Of gradients that
    are spread over processes every part counts, and each process scales its own.

    Args:
        params: any iterable of parameters, a generator too; or one parameter.
        max_norm: the greatest norm to leave as it is.

    Returns:
        The norm before clipping, zero if there is no gradient; the same in all processes.

    Raises:
        ValueError: if `max_norm` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    params = [params] if isinstance(params, Tensor) else params
    gradients = [p.grad for p in params if p.grad is not None]
    norm = norm_of(gradients)
    too_long = (norm > max_norm) & norm.isfinite()
    if gradients and not (readable(too_long) and not too_long):
        _scale([local(g) for g in gradients], torch.where(too_long, max_norm / (norm + 1e-6), 1.0))
    return norm


def _scale(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiply `gradients` in place; each is rounded once, to its own dtype."""
    by_kind: dict[Any, list[Tensor]] = {}
    for gradient in gradients:
        by_kind.setdefault((gradient.dtype, gradient.device), []).append(gradient)
    for (dtype, device), alike in by_kind.items():
        wide = [widen(gradient) for gradient in alike]  # themselves, if they are wide
        torch._foreach_mul_(wide, factor.to(device=device, dtype=wide_dtype(alike[0])))
        if wide[0].dtype != dtype:
            torch._foreach_copy_(alike, wide)
