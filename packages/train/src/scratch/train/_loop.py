"""The training loop, as a generator: one `Step` after each update.

Logging, evaluating, saving and stopping are `if`s of the caller, between two steps. Losses and
norms stay on the device until somebody reads them, and so does the check that they are finite: an
update with a gradient that is not finite is called off on the device, and the caller learns of it
when it next reads the step.

Processes that train together each take their own share of a step. What they exchange is the
gradients, once a step, and then one sum of two numbers, the loss and the tokens.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._data import Batch
from ._distributed import ALONE, World
from ._protocols import GradientSynchronizer, MaskedOptimizer, Model, Optimizer

M = TypeVar("M", bound=Model)


class NonFiniteError(ArithmeticError):
    """A loss or a gradient that is infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One update.

    Attributes:
        number: updates done, this one included.
        loss: mean over the targets of the step, in nats; on the device.
        grad_norm: norm of the gradients before clipping; on the device.
        lr: learning rate used.
        tokens: targets of the step, over all processes.
        seconds: wall-clock time of the step on the host.
        counted_tokens: of several processes, how many targets they had together; on the device.
    """

    number: int
    loss: Float[Tensor, ""]
    grad_norm: Float[Tensor, ""]
    lr: float
    tokens: int
    seconds: float
    counted_tokens: Float[Tensor, ""] | None = None

    def check_finite(self) -> None:
        """Wait for loss and gradient norm.

        Raises:
            NonFiniteError: if one is not finite, in which case the update was not applied.
            ValueError: if the processes had other numbers of targets than they said.
        """
        if self.counted_tokens is not None and int(self.counted_tokens) != self.tokens:
            raise ValueError(
                f"step {self.number}: all processes together must have {self.tokens} targets, "
                f"got {int(self.counted_tokens)}; uneven shares need total_tokens"
            )
        loss, grad_norm = float(self.loss), float(self.grad_norm)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise NonFiniteError(
                f"step {self.number}: loss and gradient norm must be finite, got loss {loss}, "
                f"gradient norm {grad_norm} at learning rate {self.lr:.3g}; "
                "this update was not applied"
            )


def train_steps(
    model: M,
    optimizer: Optimizer,
    batches: Callable[[int], Sequence[Batch]],
    *,
    loss: Callable[[M, Batch], Tensor],
    schedule: Callable[[int], float],
    clip: Callable[[Iterable[nn.Parameter]], Tensor] | None = None,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
    world: World = ALONE,
    total_tokens: Callable[[int], int] | None = None,
    start: int = 0,
    stop: int,
) -> Iterator[Step]:
    """Update `model` until `stop` updates are done, yielding a `Step` after each.

    Args:
        model: what learns.
        optimizer: holds the parameters of `model`. One with a `masked_step` is told on the device
            to leave out an update that is not finite; another is asked on the host, which waits.
        batches: maps the number of updates done to the micro-batches of the next one. Their losses
            are weighted by their targets, so that it does not matter how a batch is cut. Of several
            processes each gives its own share, all of them in as many parts.
        loss: the mean loss of a model over the targets of a batch.
        schedule: maps the number of an update, from 1, to its learning rate. A group of parameters
            with an "lr_scale" gets so many times that rate.
        clip: limits the gradients in place and returns their norm from before.
        context: entered anew for each update, around forward pass, backward pass and step; for
            settings of the machine that hold for training only.
        world: the processes that train together. The backward pass is to average gradients over
            them; a model that can be told to (`GradientSynchronizer`) does so for the last
            micro-batch only.
        total_tokens: maps the number of updates done to the targets of the next one, over all
            processes. By default all have as many as this one.
        start: updates done already; resuming needs nothing else.
        stop: updates to have done in the end.

    Raises:
        ValueError: if not `0 <= start <= stop`, or a step has no target here.
    """
    if not 0 <= start <= stop:
        raise ValueError(f"start and stop must be 0 <= start <= stop, got {start} and {stop}")
    norm = _gradient_norm if clip is None else clip

    def steps() -> Iterator[Step]:
        for done in range(start, stop):
            begin = time.perf_counter()
            lr = float(schedule(done + 1))
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            micro_batches = batches(done)
            if not isinstance(micro_batches, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"batches must give a list of them, got {type(micro_batches)}")
            tokens = sum(batch.targets.numel() for batch in micro_batches)
            if tokens == 0:
                raise ValueError(f"batches must give at least one target, got none at step {done}")
            total = tokens * world.size if total_tokens is None else total_tokens(done)
            optimizer.zero_grad()
            with context():
                mean_loss = _accumulate(model, micro_batches, loss, total, world)
                mean_loss, counted = _over_processes(mean_loss, tokens, world)
                grad_norm = norm(model.parameters())
                _update(optimizer, grad_norm.isfinite() & mean_loss.isfinite())
            optimizer.zero_grad()
            yield Step(
                number=done + 1,
                loss=mean_loss,
                grad_norm=grad_norm,
                lr=lr,
                tokens=total,
                seconds=time.perf_counter() - begin,
                counted_tokens=counted,
            )

    return steps()


def _accumulate(
    model: M,
    micro_batches: Sequence[Batch],
    loss: Callable[[M, Batch], Tensor],
    total: int,
    world: World,
) -> Tensor:
    """Add the gradients of the mean loss over all `total` targets; return its part from here."""
    parts: list[Tensor] = []
    counted = [batch for batch in micro_batches if batch.targets.numel()]  # no mean over nothing
    for number, batch in enumerate(counted, start=1):
        if isinstance(model, GradientSynchronizer):
            model.set_requires_gradient_sync(number == len(counted))
        share = batch.targets.numel() / total
        part = loss(model, batch)
        # The gradients are averaged over processes, where a sum is wanted.
        (part * (share * world.size)).backward()  # pyright: ignore[reportUnknownMemberType]
        parts.append(_widen(part.detach()) * share)
    return torch.stack(parts).sum()


def _over_processes(loss: Tensor, tokens: int, world: World) -> tuple[Tensor, Tensor | None]:
    """Return the sums of losses and of tokens, by one exchange; alone, the loss as it is."""
    if world.size == 1:
        return loss, None
    wide = loss.double()
    total_loss, total_tokens = world.sum(torch.stack([wide, torch.full_like(wide, tokens)]))
    return total_loss.to(loss.dtype), total_tokens


def _update(optimizer: Optimizer, finite: Tensor) -> None:
    if isinstance(optimizer, MaskedOptimizer):
        optimizer.masked_step(finite)
    elif finite:
        optimizer.step()


@torch.no_grad()
def _gradient_norm(params: Iterable[nn.Parameter]) -> Tensor:
    squares = [_widen(p.grad).square().sum() for p in params if p.grad is not None]
    if not squares:
        return torch.zeros(())
    total = torch.stack(squares).sum()
    # Of gradients that are spread over processes that is a part of the sum, or the promise of one.
    return (cast("Any", total).full_tensor() if hasattr(total, "full_tensor") else total).sqrt()


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
