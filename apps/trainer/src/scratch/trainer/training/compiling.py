"""The loss of a batch, compiled where that is asked for and works."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from scratch.nn import TransformerLM
from scratch.train import Batch, Model, World

from ..device import choose_precision
from ..using.score import HasLoss, next_token_loss
from ..watching.display import say

Mode = Literal["auto", "on", "off"]


class Learner(Model, HasLoss, Protocol):
    """What is trained."""


Loss = Callable[[Learner, Batch], Tensor]


def build_loss(precision: str, mode: Mode, model: TransformerLM, trial: Batch) -> tuple[Loss, bool]:
    """Return the loss of a batch, and whether it is compiled.

    Compiled means tried: one forward and backward pass over `trial`, whose gradients are thrown
    away. "auto" tries on a GPU, and where that fails says so and goes without.

    Raises:
        ValueError: if the mode is "on" and the model cannot be compiled here, with the reason.
    """
    device = model.head_weight.device
    plain = loss_in(precision, device, next_token_loss)
    if not _is_wanted(mode, device):
        return plain, False
    compiled = loss_in(precision, device, _compiled(model))
    trouble = _trouble(lambda: compiled(model, trial))
    model.zero_grad()
    return (plain, False) if _gives_up(mode, trouble) else (compiled, True)


def compile_blocks(precision: str, mode: Mode, model: TransformerLM, world: World) -> bool:
    """Let each block of a model be compiled by itself, as it will be gathered; return whether.

    Whether that works is tried by each process on a model of one block. "auto" as above.

    Raises:
        ValueError: if the mode is "on" and a process cannot compile, with the reason.
    """
    device = model.head_weight.device
    if not _is_wanted(mode, device):
        return False
    small = TransformerLM(replace(model.config, num_layers=1)).to(device)
    small.layers[0].compile()  # pyright: ignore[reportUnknownMemberType]
    ids = torch.zeros((1, model.config.context_length), dtype=torch.int64, device=device)
    plain = loss_in(precision, device, next_token_loss)
    trouble = world.first(_trouble(lambda: plain(small, Batch(ids, ids))))
    if _gives_up(mode, trouble):
        return False
    for layer in model.layers:
        layer.compile()  # pyright: ignore[reportUnknownMemberType]
    return True


def _is_wanted(mode: Mode, device: torch.device) -> bool:
    return mode == "on" or (mode == "auto" and is_worth_compiling(device))


def _trouble(loss: Callable[[], Tensor]) -> str | None:
    """Return what keeps a loss and its gradients from being compiled, if something does."""
    try:
        loss().backward()  # pyright: ignore[reportUnknownMemberType]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler and the tools that it needs may raise
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200}"
    return None


def _gives_up(mode: Mode, trouble: str | None) -> bool:
    """Return whether to go on without compiling, having said why."""
    if trouble is None:
        return False
    if mode == "on":
        raise ValueError(f"the model cannot be compiled here ({trouble})")
    say(f"going on without compiling: {trouble}")
    return True


def is_worth_compiling(device: torch.device) -> bool:
    """On a CPU a step gains little, and compiling takes half a minute."""
    return device.type == "cuda"


def loss_in(precision: str, device: torch.device, loss: Loss) -> Loss:
    """Return `loss` with the matrix products of the forward pass in a precision."""
    dtype = choose_precision(precision, device)

    def in_precision(model: Learner, batch: Batch) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return loss(model, batch)

    return in_precision


def _compiled(model: TransformerLM) -> Loss:
    compiled = torch.compile(model.loss)
    return lambda _, batch: compiled(batch.inputs, batch.targets)
