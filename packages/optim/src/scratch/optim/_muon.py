"""Muon: momentum, orthogonalized (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

For the matrices between the layers only: embeddings, the head and vectors belong to AdamW.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ._batches import Undo, chunks, readable
from ._masked import MaskedOptimizer, Params, State, check_not_negative, wide_dtype, widen
from ._newton_schulz import (
    Coefficients,
    Method,
    Triple,
    newton_schulz,
    normalize_,
    orthogonalize,
    triples_of,
)
from ._shards import gather, local, local_gradient, scatter

Scale = Literal["spectral", "rms"]


def muon(
    p: Float[Tensor, "rows columns"],
    o: Float[Tensor, "rows columns"],
    *,
    lr: float,
    weight_decay: float,
    scale: Scale,
    split_rows: int = 1,
) -> Float[Tensor, "rows columns"]:
    """Return the parameter after one step along `o`, the orthogonalized momentum.

    p = (1 - lr weight_decay) p - lr s o

    `"spectral"` has s = sqrt(max(1, rows / columns)), so that outputs change alike whatever the
    shape; `"rms"` has s = 0.2 sqrt(max(rows, columns)), so that entries change as AdamW would
    change them (Liu et al., 2025, arXiv:2502.16982), and one rate suits both.
    """
    return (1 - lr * weight_decay) * p - lr * shape_scale(p.shape, scale, split_rows) * o


def shape_scale(shape: Sequence[int], scale: Scale, split_rows: int) -> float:
    rows, columns = shape[0] // split_rows, shape[1]
    if scale == "spectral":
        return math.sqrt(max(1, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


class Muon(MaskedOptimizer):
    """Momentum of which every matrix is made orthogonal before it is added.

    m = momentum m + (1 - momentum) g
    u = momentum m + (1 - momentum) g   (Nesterov: what the next momentum would be; otherwise m)
    p = (1 - lr weight_decay) p - lr s orthogonalize(u)

    State and update are in float32 or wider, the orthogonalization in `dtype`. Matrices of one
    shape are orthogonalized together. A matrix that is spread over processes is gathered for that
    in each of them: one all-gather of every parameter a step, and the same work everywhere.

    Args:
        params: matrices, or groups of them. A group may set `split_rows`: a matrix that holds so
            many of equal height, as a fused projection does, is orthogonalized one by one.
        lr: the learning rate.
        momentum: how much of the momentum is kept at each step.
        nesterov: whether to look a step ahead.
        weight_decay: how much of a parameter goes away at each step, times `lr`.
        scale: how the step depends on the shape, `"spectral"` or `"rms"`; see `muon`.
        split_rows: what groups take that do not set their own.
        coefficients: of `orthogonalize`.
        method: of `newton_schulz`.
        dtype: in which the products of the iteration are computed.

    Raises:
        ValueError: if a value is negative, `momentum` is not in [0, 1), a name is unknown, a
            parameter is no matrix, or its rows are no multiple of `split_rows`.
    """

    state_names = frozenset({"momentum"})

    def __init__(
        self,
        params: Params,
        lr: float,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        scale: Scale = "spectral",
        split_rows: int = 1,
        coefficients: Coefficients | Sequence[Triple] = "jordan",
        method: Method = "auto",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        check_not_negative(lr=lr, weight_decay=weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
        self.nesterov = nesterov
        self.triples = triples_of(coefficients)
        self.method: Method = method
        self.dtype = dtype
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "scale": scale,
            "split_rows": split_rows,
        }
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        names = ("nesterov", "triples", "method", "dtype")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}

    def check_group(self, group: dict[str, Any]) -> None:
        if group["scale"] not in get_args(Scale):
            known = ", ".join(get_args(Scale))
            raise ValueError(f"scale must be one of {known}, got {group['scale']!r}")
        for parameter in group["params"]:
            if parameter.ndim != 2:
                shape = tuple(parameter.shape)
                raise ValueError(f"params must be matrices, got one of shape {shape}")
            if group["split_rows"] < 1 or parameter.shape[0] % group["split_rows"]:
                raise ValueError(
                    "split_rows must divide the rows of every matrix, "
                    f"got split_rows={group['split_rows']}, rows={parameter.shape[0]}"
                )

    def initial_state(self, parameter: Tensor) -> State:
        momentum = torch.zeros_like(parameter, dtype=wide_dtype(parameter), requires_grad=False)
        return {"momentum": momentum}

    def update(
        self, parameter: Tensor, gradient: Tensor, state: State, group: dict[str, Any]
    ) -> tuple[Tensor, State]:
        g, mu = widen(gradient), group["momentum"]
        m = mu * state["momentum"] + (1 - mu) * g
        u = mu * m + (1 - mu) * g if self.nesterov else m
        parts = u.reshape(group["split_rows"], -1, u.shape[1])
        o = orthogonalize(
            parts, coefficients=self.triples, method=self.method, dtype=self.dtype
        ).reshape(u.shape)
        p = muon(
            widen(parameter),
            o,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            scale=group["scale"],
            split_rows=group["split_rows"],
        )
        return p, {"momentum": m}

    def update_all(
        self,
        parameters: list[Tensor],
        states: list[State],
        group: dict[str, Any],
        finite: Tensor | None,
    ) -> None:
        if finite is not None and readable(finite):
            if not finite:
                return
            finite = None
        alike: dict[Any, list[tuple[Tensor, State]]] = {}
        for parameter, state in zip(parameters, states, strict=True):
            key = (parameter.shape, parameter.dtype, parameter.device)
            alike.setdefault(key, []).append((parameter, state))
        for members in alike.values():
            for some in chunks(members):
                self._update_stack([p for p, _ in some], [s for _, s in some], group, finite)

    def _update_stack(
        self,
        parameters: list[Tensor],
        states: list[State],
        group: dict[str, Any],
        finite: Tensor | None,
    ) -> None:
        """Update `parameters` of one shape."""
        here = [local(parameter).detach() for parameter in parameters]
        momenta = [local(state["momentum"]) for state in states]
        with Undo([*here, *momenta], unless=finite):
            gradients = [widen(local_gradient(parameter)) for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            ahead = momenta
            if self.nesterov:
                ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
            whole = [gather(part, p) for part, p in zip(ahead, parameters, strict=True)]
            one_of_its_own = self.nesterov and len(whole) == 1
            stack = whole[0][None] if one_of_its_own else torch.stack(whole)
            steps = self._orthogonalize_(stack, group).unbind()
            steps = [scatter(o, p) for o, p in zip(steps, parameters, strict=True)]
            rate = group["lr"] * shape_scale(
                parameters[0].shape, group["scale"], group["split_rows"]
            )
            wide = [widen(parameter) for parameter in here]  # itself, if it is wide
            torch._foreach_mul_(wide, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(wide, steps, alpha=-rate)
            if wide[0] is not here[0]:
                torch._foreach_copy_(here, wide)

    def _orthogonalize_(self, stack: Tensor, group: dict[str, Any]) -> Tensor:
        """Return `stack` orthogonalized, in the dtype of the iteration; what it held is lost."""
        count, rows, columns = stack.shape
        parts = stack.reshape(count * group["split_rows"], -1, columns)
        x = normalize_(parts).to(self.dtype)
        return newton_schulz(x, self.triples, method=self.method).reshape(count, rows, columns)
