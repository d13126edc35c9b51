"""Two fast forms of the AdamW update: few passes over memory, or one.

Both change parameters and state in place. They are the formula of `adamw` and no other; what does
not depend on the element, the step size `a` and what is kept of the parameter,
`keep = 1 - lr weight_decay`, is computed once for all.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._batches import Undo, readable
from ._masked import widen

# What torch.compile raises then, all RuntimeErrors; importing them would import the compiler.
_NO_COMPILER = {"BackendCompilerFailed", "InductorError"}
_BACKEND = "inductor"  # tests that only count graphs take a quicker one


@dataclass
class Operands:
    """Local tensors of one dtype each: `parameters[i]` has `gradients[i]`, `first[i]`, `second[i]`.

    If there are `masters`, they are what is updated, and the parameters are rounded from them.
    """

    parameters: list[Tensor] = field(default_factory=list[Tensor])
    gradients: list[Tensor] = field(default_factory=list[Tensor])
    first: list[Tensor] = field(default_factory=list[Tensor])
    second: list[Tensor] = field(default_factory=list[Tensor])
    masters: list[Tensor] = field(default_factory=list[Tensor])


@dataclass(frozen=True)
class Scalars:
    """What one update has in common over all its elements."""

    step_size: Tensor
    betas: tuple[float, float]
    eps: float
    keep: float


def foreach_update(operands: Operands, scalars: Scalars, finite: Tensor | None) -> None:
    """Update everything by one pass of `torch._foreach_*` for each operation of the formula.

    The result of an operation is written over its operand: the one new tensor is the root.
    """
    first, second = operands.first, operands.second
    b1, b2 = scalars.betas
    changed = [*operands.parameters, *operands.masters, *first, *second]
    with Undo(changed, unless=finite):
        wide = [widen(p) for p in operands.masters or operands.parameters]  # itself, if it is wide
        gradients = [widen(gradient) for gradient in operands.gradients]
        torch._foreach_lerp_(first, gradients, 1 - b1)
        torch._foreach_mul_(second, b2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - b2)
        root = torch._foreach_sqrt(second)
        torch._foreach_add_(root, scalars.eps)
        if readable(scalars.step_size):
            torch._foreach_addcdiv_(wide, first, root, -scalars.step_size.item())
        else:  # the host does not know the step: a m / root is m / (root / a)
            torch._foreach_div_(root, scalars.step_size)
            torch._foreach_addcdiv_(wide, first, root, -1.0)
        if scalars.keep != 1:
            torch._foreach_mul_(wide, scalars.keep)
        if wide[0] is not operands.parameters[0]:
            torch._foreach_copy_(operands.parameters, wide)


def _fused(
    parameters: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    masters: list[Tensor],
    numbers: tuple[Tensor, ...],
    finite: Tensor | None,
) -> None:
    """Update everything; a compiler makes of it one pass over p, g, m and v.

    Every number is a tensor without axes, so a new learning rate is no new program.
    """
    a, b1, rest1, b2, rest2, eps, keep = numbers
    for i, (p, m, v) in enumerate(zip(parameters, first, second, strict=True)):
        g, wide = gradients[i].to(m.dtype), (masters[i] if masters else p).to(m.dtype)
        new_m = b1 * m + rest1 * g
        new_v = b2 * v + rest2 * g * g
        new = (wide - a * new_m / (new_v.sqrt() + eps)) * keep
        if finite is not None:
            new_m, new_v = torch.where(finite, new_m, m), torch.where(finite, new_v, v)
            new = torch.where(finite, new, wide)
        m.copy_(new_m)
        v.copy_(new_v)
        p.copy_(new)
        if masters:
            masters[i].copy_(new)


class CompiledUpdate:
    """`_fused`, compiled at its first call and once more for each new list of shapes."""

    def __init__(self) -> None:
        self._program: Callable[..., None] | None = None

    def __call__(self, operands: Operands, scalars: Scalars, finite: Tensor | None) -> None:
        if self._program is None:
            self._program = _compile()
        b1, b2 = scalars.betas
        rest = (b1, 1 - b1, b2, 1 - b2, scalars.eps, scalars.keep)
        numbers = [torch.tensor(value, dtype=scalars.step_size.dtype) for value in rest]
        try:
            self._program(
                operands.parameters,
                operands.gradients,
                operands.first,
                operands.second,
                operands.masters,
                (scalars.step_size, *numbers),
                finite,
            )
        except RuntimeError as error:
            if type(error).__name__ not in _NO_COMPILER:
                raise
            raise RuntimeError(
                'form="compiled" must find the compiler that torch.compile uses (on a CPU a C++ '
                'compiler, on a GPU Triton); form="foreach" needs none. '
                f"torch says: {str(error).splitlines()[0]}"
            ) from error


def _compile() -> Callable[..., None]:
    # Programs are kept by code object, and only so many for each: every optimizer has its own. A
    # shape checker may have wrapped the function; the compiler gets it as written.
    written: Any = inspect.unwrap(_fused)
    own = types.FunctionType(written.__code__.replace(), written.__globals__, written.__name__)
    return torch.compile(own, backend=_BACKEND, dynamic=False, fullgraph=True)
