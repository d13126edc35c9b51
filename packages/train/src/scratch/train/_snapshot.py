"""A checkpoint in two parts: a copy in memory, which is quick, and the file, which can wait.

While the file is written, by another thread if one likes, the training goes on and changes the
tensors. So they are copied first, into memory that is kept for the next time: the copy is all that
the training waits for.
"""

from typing import Any, cast

import torch
from torch import Tensor

from ._checkpoint import checkpoint_content, write_checkpoint
from ._files import StrPath
from ._protocols import BinaryWriter, Stateful


class Snapshot:
    """What a model and its optimizer held at one moment, to be written whenever it suits.

    Takes as much host memory as the checkpoint, and keeps it for the next moment.
    """

    def __init__(self) -> None:
        self._content: dict[str, Any] | None = None

    def take(self, model: Stateful, optimizer: Stateful, iteration: int) -> None:
        """Copy the state of both, in place of what was held. Not while `save` is at work.

        Raises:
            TypeError: if `iteration` is not a whole number.
            ValueError: if it is negative.
        """
        self._content = _copied(checkpoint_content(model, optimizer, iteration), self._content)

    def save(self, out: StrPath | BinaryWriter) -> None:
        """Write what was taken, as `save_checkpoint` does; `load_checkpoint` reads it.

        Raises:
            ValueError: if nothing was taken yet.
            OSError: if the file cannot be written; an old one under the same path stays.
        """
        if self._content is None:
            raise ValueError("take must be called before save, got an empty snapshot")
        write_checkpoint(self._content, out)


def _copied(value: Any, memory: Any) -> Any:
    """Return a copy that shares nothing with `value`, in the tensors of `memory` where they fit."""
    if isinstance(value, Tensor):
        if not _fits(value, memory):
            memory = torch.empty_like(value, device="cpu", requires_grad=False)
        return cast("Tensor", memory).copy_(value.detach())
    if isinstance(value, dict):
        held = cast("dict[Any, Any]", memory) if isinstance(memory, dict) else {}
        pairs = cast("dict[Any, Any]", value).items()
        return {key: _copied(item, held.get(key)) for key, item in pairs}
    if isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        old = cast("list[Any]", memory) if isinstance(memory, type(items)) else []
        padded = [*old, *[None] * len(items)]
        copies = [_copied(item, padded[place]) for place, item in enumerate(items)]
        return tuple(copies) if isinstance(value, tuple) else copies
    return value


def _fits(value: Tensor, memory: object) -> bool:
    return (
        isinstance(memory, Tensor)
        and memory.shape == value.shape
        and memory.dtype == value.dtype
        and memory.stride() == value.stride()
    )
