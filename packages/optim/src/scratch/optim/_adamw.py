"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101).

The form of the course: the bias corrections go into the step size, eps is added to the uncorrected
root, and the decay comes last. (torch decays first and adds eps to the corrected root; the
difference is of the order of eps and of lr^2.)
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ._adamw_forms import CompiledUpdate, Operands, Scalars, foreach_update
from ._batches import chunks, readable
from ._masked import MaskedOptimizer, Params, State, check_not_negative, wide_dtype, widen
from ._shards import local, local_gradient

Form = Literal["auto", "loop", "foreach", "compiled"]


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
    a = step_size(t, lr=lr, betas=betas)
    p = p - a * m / (v.sqrt() + eps)
    p = p - lr * weight_decay * p
    return p, m, v


def step_size(t: Float[Tensor, ""], *, lr: float, betas: tuple[float, float]) -> Float[Tensor, ""]:
    """Return `lr sqrt(1 - b2^t) / (1 - b1^t)`: the moments began at zero and are too small."""
    b1, b2 = betas
    return lr * _one_minus_power(b2, t).sqrt() / _one_minus_power(b1, t)


def _one_minus_power(base: float, exponent: Tensor) -> Tensor:
    """Return `1 - base^exponent`, without losing digits where the power is close to 1."""
    return -torch.expm1(exponent * (math.log(base) if base > 0 else -math.inf))


class AdamW(MaskedOptimizer):
    """`adamw` over parameters or groups of parameters; both moments start at zero.

    Computes and keeps its state in float32 or wider, whatever the dtype of the parameters.

    One update has three forms. `"loop"` is `adamw` for one parameter after the other; `"foreach"`
    makes one pass over all for each operation; `"compiled"` is compiled to one pass in all, which
    costs some seconds at the first step, and again whenever other parameters have gradients.
    `"auto"` is `"foreach"`: it never compiles. The forms agree to rounding.

    Args:
        params: parameters, or groups as `decay_groups` makes them.
        lr: the learning rate; a schedule sets it anew in every group before each step.
        betas: how much of the first and of the second moment is kept at each step.
        eps: keeps the step finite where the second moment is zero.
        weight_decay: how much of a parameter goes away at each step, times `lr`.
        form: how the update is computed, the same for all groups.
        master_weights: whether a parameter narrower than float32 is the rounded copy of one in
            float32, kept in the state and updated there, so that small steps add up. Who sets such
            a parameter otherwise than by a step must empty its state.

    Raises:
        ValueError: if a value is negative, one of `betas` is not in [0, 1), or `form` is unknown.
        RuntimeError: at the first step, if the form is `"compiled"` and there is no compiler.
    """

    state_names = frozenset({"first_moment", "second_moment", "step"})
    counter_names = frozenset({"step"})

    def __init__(
        self,
        params: Params,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        form: Form = "auto",
        master_weights: bool = False,
    ) -> None:
        check_not_negative(lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
        self.form: Form = form
        self.master_weights = master_weights
        self._compiled = CompiledUpdate()
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        own = {"form": self.form, "master_weights": self.master_weights}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # What 0.1.0 pickled has neither; and what is loaded into this one changes neither.
        form, master_weights = getattr(self, "form", "auto"), getattr(self, "master_weights", False)
        super().__setstate__({"form": form, "master_weights": master_weights, **state})
        self._compiled = CompiledUpdate()

    def names_for(self, parameter: Tensor) -> frozenset[str]:
        if self.master_weights and wide_dtype(parameter) != parameter.dtype:
            return self.state_names | {"master_weight"}
        return self.state_names

    def initial_state(self, parameter: Tensor) -> State:
        dtype = wide_dtype(parameter)
        state = {
            "first_moment": torch.zeros_like(parameter, dtype=dtype, requires_grad=False),
            "second_moment": torch.zeros_like(parameter, dtype=dtype, requires_grad=False),
            "step": torch.zeros((), device=parameter.device),
        }
        if "master_weight" in self.names_for(parameter):
            state["master_weight"] = parameter.detach().to(dtype)
        return state

    def update(
        self, parameter: Tensor, gradient: Tensor, state: State, group: dict[str, Any]
    ) -> tuple[Tensor, State]:
        p, step = widen(state.get("master_weight", parameter)), state["step"] + 1
        p, m, v = adamw(
            p,
            widen(gradient),
            state["first_moment"],
            state["second_moment"],
            step.to(p.dtype),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )
        new = {"first_moment": m, "second_moment": v, "step": step}
        return p, {**new, "master_weight": p} if "master_weight" in state else new

    def update_all(
        self,
        parameters: list[Tensor],
        states: list[State],
        group: dict[str, Any],
        finite: Tensor | None,
    ) -> None:
        if self.form == "loop":
            super().update_all(parameters, states, group, finite)
            return
        if finite is not None and readable(finite):
            if not finite:
                return
            finite = None
        for members in _alike(parameters, states):
            dtype = members[0][1]["first_moment"].dtype
            step = members[0][1]["step"]
            step = step + (1 if finite is None else finite.to(step.device))
            scalars = Scalars(
                step_size(step.to(dtype), lr=group["lr"], betas=group["betas"]),
                group["betas"],
                group["eps"],
                1 - group["lr"] * group["weight_decay"],
            )
            if self.form == "compiled":
                self._compiled(_operands(members), scalars, finite)
            else:
                for some in chunks(members):
                    foreach_update(_operands(some), scalars, finite)
            for _, state in members:
                state["step"] = step


def _alike(parameters: list[Tensor], states: list[State]) -> list[list[tuple[Tensor, State]]]:
    """Return the parameters that agree in dtypes and in their step, which is then computed once."""
    alike: dict[Any, list[tuple[Tensor, State]]] = {}
    for parameter, state in zip(parameters, states, strict=True):
        key = (id(state["step"]), parameter.dtype, state["first_moment"].dtype)
        alike.setdefault(key, []).append((parameter, state))
    return list(alike.values())


def _operands(members: Sequence[tuple[Tensor, State]]) -> Operands:
    operands = Operands()
    for parameter, state in members:
        operands.parameters.append(local(parameter).detach())
        operands.gradients.append(local_gradient(parameter))
        operands.first.append(local(state["first_moment"]))
        operands.second.append(local(state["second_moment"]))
        if "master_weight" in state:
            operands.masters.append(local(state["master_weight"]))
    return operands
