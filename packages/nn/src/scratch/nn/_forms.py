"""Which form of a function the modules use: the plain one, or one that is made for speed.

The plain forms are formulas that can be read, differentiated twice and mapped over. The fast forms
beside them are `autograd.Function`s with a gradient written by hand: fewer passes over memory and
fewer tensors kept, the same result to rounding. Under `torch.compile` the plain forms are used, as
the compiler fuses those by itself.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_plain = ContextVar("plain", default=False)


@contextmanager
def plain_forms() -> Generator[None]:
    """Let every module inside of this context compute by its plain form.

    For reading along, for comparing, and for what the fast forms refuse: second derivatives and
    the transforms of `torch.func`.

    >>> with plain_forms():  # doctest: +SKIP
    ...     logits = model(ids)
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def plain_forms_wanted() -> bool:
    """Return whether the caller has asked for plain forms."""
    return not torch.compiler.is_compiling() and _plain.get()


def fast_forms_apply() -> bool:
    """Return whether modules are to use their fast forms here."""
    return not torch.compiler.is_compiling() and not _plain.get()


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which matrix products of `x` are made: its own, or that of autocast."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype
