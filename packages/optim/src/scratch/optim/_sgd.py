"""Stochastic gradient descent with momentum (Polyak, 1964)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ._masked import MaskedOptimizer, Params, State, check_not_negative, wide_dtype, widen


def sgd(
    p: Float[Tensor, "*shape"],
    g: Float[Tensor, "*shape"],
    v: Float[Tensor, "*shape"],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the parameter and the velocity after one step.

    v = momentum v + g + weight_decay p
    p = p - lr v
    """
    v = momentum * v + g + weight_decay * p
    return p - lr * v, v


class SGD(MaskedOptimizer):
    """`sgd` over parameters or groups of parameters; the velocity starts at zero.

    Computes and keeps its state in float32 or wider, whatever the dtype of the parameters.

    Raises:
        ValueError: if `lr` or `weight_decay` is negative, or `momentum` is not in [0, 1).
    """

    state_names = frozenset({"velocity"})

    def __init__(
        self, params: Params, lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        check_not_negative(lr=lr, weight_decay=weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def initial_state(self, parameter: Tensor) -> State:
        velocity = torch.zeros_like(parameter, dtype=wide_dtype(parameter), requires_grad=False)
        return {"velocity": velocity}

    def update(
        self, parameter: Tensor, gradient: Tensor, state: State, group: dict[str, Any]
    ) -> tuple[Tensor, State]:
        p, g = widen(parameter), widen(gradient)
        velocity = state["velocity"]
        p, velocity = sgd(
            p,
            g,
            velocity,
            lr=group["lr"],
            momentum=group["momentum"],
            weight_decay=group["weight_decay"],
        )
        return p, {"velocity": velocity}
