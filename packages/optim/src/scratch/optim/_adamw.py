"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101).

The form of the course: the bias corrections go into the step size, eps is added to the uncorrected
root, and the decay comes last. (torch decays first and adds eps to the corrected root; the
difference is of the order of eps and of lr^2.)
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ._masked import MaskedOptimizer, Params, check_not_negative, widen


def adamw(
    p: Float[Tensor, "*shape"],
    g: Float[Tensor, "*shape"],
    m: Float[Tensor, "*shape"],
    v: Float[Tensor, "*shape"],
    t: Float[Tensor, ""],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the parameter and both moments after step `t`, counted from 1.

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    a = lr sqrt(1 - b2^t) / (1 - b1^t)
    p = p - a m / (sqrt(v) + eps)
    p = p - lr weight_decay p
    """
    b1, b2 = betas
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g.square()
    a = lr * _one_minus_power(b2, t).sqrt() / _one_minus_power(b1, t)
    p = p - a * m / (v.sqrt() + eps)
    p = p - lr * weight_decay * p
    return p, m, v


def _one_minus_power(base: float, exponent: Tensor) -> Tensor:
    """Return `1 - base^exponent`, without losing digits where the power is close to 1."""
    return -torch.expm1(exponent * (math.log(base) if base > 0 else -math.inf))


class AdamW(MaskedOptimizer):
    """`adamw` over parameters or groups of parameters; both moments start at zero.

    Computes and keeps its state in float32 or wider, whatever the dtype of the parameters.

    Args:
        params: parameters, or groups as `decay_groups` makes them.
        lr: the learning rate; a schedule sets it anew in every group before each step.
        betas: how much of the first and of the second moment is kept at each step.
        eps: keeps the step finite where the second moment is zero.
        weight_decay: how much of a parameter goes away at each step, times `lr`.

    Raises:
        ValueError: if a value is negative, or one of `betas` is not in [0, 1).
    """

    state_names = frozenset({"first_moment", "second_moment", "step"})

    def __init__(
        self,
        params: Params,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        check_not_negative(lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        p = widen(parameter)
        if state:
            m, v, step = state["first_moment"], state["second_moment"], state["step"] + 1
        else:
            m = v = torch.zeros_like(p)
            step = torch.ones((), device=p.device)
        p, m, v = adamw(
            p,
            widen(gradient),
            m,
            v,
            step.to(p.dtype),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )
        return p, {"first_moment": m, "second_moment": v, "step": step}
