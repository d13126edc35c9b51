"""The fast full-precision matrix product of a CPU.

On many CPUs torch hands float32 products to a library that leaves half of the machine idle; oneDNN
does not, and a public switch reaches it. The switch *permits* oneDNN to round to bfloat16. Without
the AMX unit there is no faster kernel that would, so the arithmetic stays float32; with AMX it
would round, so there the switch is left alone.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch


def fast_matmul_is_exact() -> bool:
    """Return whether the switch gains speed here without giving up the precision of float32."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.cpu._is_avx512_supported()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        and not torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
    )


@contextmanager
def fast_matmul() -> Generator[None]:
    """Use oneDNN for float32 matrix products on the CPU inside of this context, where it is exact.

    Meant for training steps and evaluation: it slows down products of a matrix with a single
    vector, of which generation is made. On CPUs where the results would be less precise than
    float32, and on other devices, it changes nothing.

    >>> with fast_matmul():  # doctest: +SKIP
    ...     model.loss(ids, targets).backward()
    """
    if not fast_matmul_is_exact():
        yield
        return
    settings = cast("Any", torch.backends.mkldnn).matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
