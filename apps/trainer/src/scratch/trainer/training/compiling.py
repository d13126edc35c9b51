"""The loss of a batch, compiled where that is asked for and works."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from scratch.nn import TransformerLM
from scratch.train import Batch

from ..device import choose_precision
from ..using.score import next_token_loss
from ..watching.display import say

Loss = Callable[[TransformerLM, Batch], Tensor]


def build_loss(
    precision: str, mode: Literal["auto", "on", "off"], model: TransformerLM, trial: Batch
) -> tuple[Loss, bool]:
    """Return the loss of a batch, and whether it is compiled.

    Compiled means tried: one forward and backward pass over `trial`, whose gradients are thrown
    away. "auto" tries on a GPU, and where that fails says so and goes without.

    Raises:
        ValueError: if the mode is "on" and the model cannot be compiled here, with the reason.
    """
    device = model.head_weight.device
    plain = loss_in(precision, device, next_token_loss)
    if mode == "off" or (mode == "auto" and not is_worth_compiling(device)):
        return plain, False
    compiled = loss_in(precision, device, _compiled(model))
    try:
        compiled(model, trial).backward()  # pyright: ignore[reportUnknownMemberType]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler and the tools that it needs may raise
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200}"
        if mode == "on":
            raise ValueError(f"the model cannot be compiled here ({reason})") from error
        say(f"going on without compiling: {reason}")
        return plain, False
    finally:
        model.zero_grad()
    return compiled, True


def is_worth_compiling(device: torch.device) -> bool:
    """On a CPU a step gains little, and compiling takes half a minute."""
    return device.type == "cuda"


def loss_in(precision: str, device: torch.device, loss: Loss) -> Loss:
    """Return `loss` with the matrix products of the forward pass in a precision."""
    dtype = choose_precision(precision, device)

    def in_precision(model: TransformerLM, batch: Batch) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return loss(model, batch)

    return in_precision


def _compiled(model: TransformerLM) -> Loss:
    compiled = torch.compile(model.loss)
    return lambda _, batch: compiled(batch.inputs, batch.targets)
