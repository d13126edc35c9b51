"""Stochastic gradient descent with momentum (Polyak, 1964)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from ._masked import MaskedOptimizer, Params, check_not_negative


def sgd(
    p: Float[Tensor, "*shape"],
    g: Float[Tensor, "*shape"],
    v: Float[Tensor, "*shape"],
    *,
    lr: float,
    momentum: float,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the parameter and the velocity after one step.

    v = momentum v + g
    p = p - lr v
    """
    v = momentum * v + g
    return p - lr * v, v


class SGD(MaskedOptimizer):
    """`sgd` over parameters or groups of parameters; the velocity starts at zero.

    Raises:
        ValueError: if `lr` is negative or `momentum` is not in [0, 1).
    """

    def __init__(self, params: Params, lr: float, *, momentum: float = 0.0) -> None:
        check_not_negative(lr=lr)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        velocity = state["velocity"] if state else gradient.new_zeros(gradient.shape)
        value, velocity = sgd(
            parameter, gradient, velocity, lr=group["lr"], momentum=group["momentum"]
        )
        return value, {"velocity": velocity}
