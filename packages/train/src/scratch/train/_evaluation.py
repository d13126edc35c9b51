"""Evaluation: every target once, in a fixed order, whatever the batch size.

A window that slides by less than its length scores only its last targets; the tokens before them
are context. A smaller stride gives each token more context, at the price of more windows.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ._data import Batch, window_batch
from ._protocols import Model
from ._shards import TokenStream

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Window:
    """Inputs `start .. stop - 1` of a sequence, of which the last `scored` have their targets."""

    start: int
    stop: int
    scored: int


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of some text.

    Attributes:
        nats: sum of the losses of all targets.
        tokens: number of targets.
    """

    nats: float
    tokens: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a token, in nats."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """`exp(loss)`: as uncertain as a choice between so many tokens."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    def bits_per_byte(self, num_bytes: int) -> float:
        """Return the bits that each of the `num_bytes` bytes of the text takes.

        Unlike the loss, it compares models with different tokenizers, and compressors.
        """
        if num_bytes < 1:
            raise ValueError(f"num_bytes must be at least 1, got {num_bytes}")
        return self.nats / math.log(2) / num_bytes


def evaluate(
    model: M, batches: Iterable[Batch], *, loss: Callable[[M, Batch], Tensor]
) -> Evaluation:
    """Return the loss of `model` over all targets of `batches`, without gradients.

    `loss` is the mean over the targets of one batch. A module is put into evaluation mode, and back
    afterwards.

    Raises:
        ValueError: if there is no target.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    nats, tokens = 0.0, 0
    try:
        with torch.no_grad():
            for batch in batches:
                count = batch.targets.numel()
                if count == 0:
                    continue
                nats += float(loss(model, batch)) * count
                tokens += count
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    if tokens == 0:
        raise ValueError("batches must hold at least one target, got none")
    return Evaluation(nats, tokens)


def scoring_windows(length: int, *, context_length: int, stride: int) -> Iterator[Window]:
    """Yield windows that score tokens `1 .. length - 1` of a sequence once each.

    All but the first leave at least `context_length - stride` tokens of context before the first
    token that they score.

    Raises:
        ValueError: if not `1 <= stride <= context_length`.
    """
    if not 1 <= stride <= context_length:
        raise ValueError(
            f"stride must be in 1 .. context_length, got {stride}, context_length={context_length}"
        )

    def windows() -> Iterator[Window]:
        scored, last = 0, length - 1
        while scored < last:
            stop = min(last, scored + stride if scored else context_length)
            yield Window(max(0, stop - context_length), stop, stop - scored)
            scored = stop

    return windows()


def evaluation_batches(
    sequences: Iterable[TokenStream],
    *,
    context_length: int,
    batch_size: int,
    stride: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Yield batches that score every token but the first of each sequence, once.

    Windows of one shape, from any sequence, share a batch. `stride` defaults to `context_length`,
    which scores with the least work.

    Raises:
        ValueError: if a size is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    step = context_length if stride is None else stride
    scoring_windows(0, context_length=context_length, stride=step)  # refuses what does not fit

    def batches() -> Iterator[Batch]:
        pending: dict[tuple[int, int], list[Batch]] = {}
        for tokens in sequences:
            for window in scoring_windows(len(tokens), context_length=context_length, stride=step):
                seq = window.stop - window.start
                batch = window_batch(tokens, [window.start], seq)
                group = pending.setdefault((seq, window.scored), [])
                group.append(Batch(batch.inputs, batch.targets[:, -window.scored :]))
                if len(group) == batch_size:
                    yield _join(group, device)
                    group.clear()
        for group in pending.values():
            if group:
                yield _join(group, device)

    return batches()


def _join(batches: list[Batch], device: torch.device | str) -> Batch:
    return Batch(
        torch.cat([batch.inputs for batch in batches]).to(device),
        torch.cat([batch.targets for batch in batches]).to(device),
    )
