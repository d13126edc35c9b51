"""Which form of a function the modules use: the plain one, or one that is made for speed.

The plain forms are formulas that can be read, differentiated twice and mapped over. The fast forms
beside them are `autograd.Function`s with a gradient written by hand: fewer passes over memory and
fewer tensors kept, the same result to rounding. Under `torch.compile` the plain forms are used, as
the compiler fuses those by itself.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_plain = ContextVar("plain", default=False)


@contextmanager
def _forms(*, plain: bool) -> Generator[None]:
    token = _plain.set(plain)
    try:
        yield
    finally:
        _plain.reset(token)


@contextmanager
def plain_forms() -> Generator[None]:
    """Let every module inside of this context compute by its plain form.

    For reading along, for comparing, and for what the fast forms refuse: second derivatives and
    the transforms of `torch.func`.

    >>> with plain_forms():  # doctest: +SKIP
    ...     logits = model(ids)
    """
    with _forms(plain=True):
        yield


def same_forms_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return a context for a computation, and one in which it is repeated in the same forms."""
    return nullcontext(), _forms(plain=_plain.get())


def plain_forms_wanted() -> bool:
    """Return whether the caller has asked for plain forms."""
    return not torch.compiler.is_compiling() and _plain.get()


def fast_forms_apply() -> bool:
    """Return whether modules are to use their fast forms here."""
    return not torch.compiler.is_compiling() and not _plain.get()


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which matrix products of `x` are made: its own, or that of autocast."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Return a context in which products are made in the dtypes of their factors."""
    if not torch.amp.is_autocast_available(device_type):  # as on the meta device
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse second derivatives, which a gradient written by hand does not have.

    `once_differentiable` of torch raises only where the incoming gradient depends on a weight, and
    otherwise takes a gradient that does depend on it for a constant.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "the fast forms can be differentiated once, got create_graph=True; "
                "make the forward pass within plain_forms()"
            )
        return backward(ctx, *gradients)

    return checked
