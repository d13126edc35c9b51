"""How a fast form goes through many tensors: in batches that share what is computed once."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")

# A pass of an element-wise form over everything would find nothing left in the cache from the pass
# before. This many float32 of parameter, gradient and state still fit; on a device, where one
# launch should have much to do, the bound only keeps the temporary tensors in check.
CACHED_NUMBERS = 1 << 18
BOUNDED_NUMBERS = 1 << 26


def chunks(items: Sequence[tuple[Tensor, Item]]) -> Iterator[Sequence[tuple[Tensor, Item]]]:
    """Yield `items` in order, in runs that stay within the bound or are one item long."""
    bound = CACHED_NUMBERS if items[0][0].device.type == "cpu" else BOUNDED_NUMBERS
    start = total = 0
    for index, (tensor, _) in enumerate(items):
        if index > start and total + tensor.numel() > bound:
            yield items[start:index]
            start, total = index, 0
        total += tensor.numel()
    yield items[start:]


def readable(flag: Tensor) -> bool:
    """Return whether the host can read `flag` without waiting for a device."""
    return flag.device.type == "cpu"


class Undo:
    """Remembers `tensors`, and can put them back where a device says so, without asking it."""

    def __init__(self, tensors: list[Tensor], *, unless: Tensor | None) -> None:
        self._tensors, self._unless = tensors, unless
        self._old = [] if unless is None else [tensor.clone() for tensor in tensors]

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        if self._unless is None:
            return
        for tensor, old in zip(self._tensors, self._old, strict=True):
            tensor.copy_(torch.where(self._unless.to(tensor.device), tensor, old))
