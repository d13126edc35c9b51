"""Refusing values that tensor operations would take in silence or answer with a riddle."""

import torch
from torch import Tensor


def check_at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{name} must be a whole number, got {size!r}")
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def as_indices(indices: Tensor, size: int, *, name: str, rule: str) -> Tensor:
    """Return `indices` as int64, having checked that all lie in `0 .. size - 1`.

    The check reads values, so it is made where they are at hand, on the CPU. On other devices it
    would wait for the device at every call; there the lookup itself is the guard.

    Raises:
        TypeError: if they are not whole numbers.
        ValueError: if one is out of range, naming it.
    """
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"{name} must be whole numbers, got dtype {indices.dtype}")
    indices = indices.long()
    if indices.device.type == "cpu" and indices.numel() and not torch.compiler.is_compiling():
        least, greatest = (int(bound) for bound in torch.aminmax(indices))
        if least < 0 or greatest >= size:
            wrong = least if least < 0 else greatest
            raise ValueError(f"{name} must be in 0 .. {size - 1} ({rule}), got {wrong}")
    return indices
