"""Evaluation: every target once, in a fixed order, whatever the batch size.

A window that slides by less than its length scores only its last targets; the tokens before them
are context. A smaller stride gives each token more context, at the price of more windows.

Processes share the batches: the first goes to the first process, the next to the next, and so on.
Their losses are added up in the order of the batches, so that the sum is that of one process.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ._data import Batch, window_batch
from ._distributed import ALONE, World
from ._protocols import Model, Resharding
from ._shards import TokenStream

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Window:
    """Inputs `start .. stop - 1` of a sequence, of which the last `scored` have their targets."""

    start: int
    stop: int
    scored: int


class Padding(Batch):
    """A batch of a process that has none when others do: computed along with them, not counted."""


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
    model: M,
    batches: Iterable[Batch],
    *,
    loss: Callable[[M, Batch], Tensor],
    world: World = ALONE,
) -> Evaluation:
    """Return the loss of `model` over all targets of `batches`, without gradients.

    `loss` is the mean over the targets of one batch. A module is put into evaluation mode, and back
    afterwards. Several processes of a `world` each give their own batches, as many as the others,
    as `evaluation_batches` makes them; all return the same. Collective.

    Raises:
        ValueError: if there is no target.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    rows: list[tuple[float, int]] = []
    try:
        with torch.no_grad():
            for batch in batches:
                count = batch.targets.numel()
                if count == 0:
                    continue
                nats = float(loss(model, batch)) * count
                rows.append((0.0, 0) if isinstance(batch, Padding) else (nats, count))
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        if isinstance(model, Resharding):
            model.reshard()
    evaluation = _added_up(rows, world)
    if evaluation.tokens == 0:
        raise ValueError("batches must hold at least one target, got none")
    return evaluation


def _added_up(rows: list[tuple[float, int]], world: World) -> Evaluation:
    """Return the sums over the batches of all processes, added in the order of the batches."""
    if world.size > 1:
        own = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)
        by_batch = world.gather(own).transpose(0, 1).reshape(-1, 2)
        rows = [(float(nats), int(tokens)) for nats, tokens in by_batch]
    nats, tokens = 0.0, 0
    for batch_nats, batch_tokens in rows:
        nats += batch_nats
        tokens += batch_tokens
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
    world: World = ALONE,
) -> Iterator[Batch]:
    """Yield batches that score every token but the first of each sequence, once.

    Windows of one shape, from any sequence, share a batch. `stride` defaults to `context_length`,
    which scores with the least work. Of several processes each gets its own share of the batches;
    at the end some may get a `Padding`, so that all get as many.

    Raises:
        ValueError: if a size is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    step = context_length if stride is None else stride
    scoring_windows(0, context_length=context_length, stride=step)  # refuses what does not fit

    def batches() -> Iterator[Batch]:
        number, group = 0, _Group()
        for number, group in enumerate(
            _groups(sequences, context_length=context_length, batch_size=batch_size, stride=step),
            start=1,
        ):
            if (number - 1) % world.size == world.rank:
                yield _joined(group, device)
        short = -number % world.size
        if world.rank >= world.size - short:
            padding = _joined(group, device)
            yield Padding(padding.inputs, padding.targets)

    return batches()


_Group = list[tuple[TokenStream, Window]]


def _groups(
    sequences: Iterable[TokenStream], *, context_length: int, batch_size: int, stride: int
) -> Iterator[_Group]:
    """Yield the windows of each batch, all of one shape."""
    pending: dict[tuple[int, int], _Group] = {}
    for tokens in sequences:
        for window in scoring_windows(len(tokens), context_length=context_length, stride=stride):
            shape = (window.stop - window.start, window.scored)
            group = pending.setdefault(shape, [])
            group.append((tokens, window))
            if len(group) == batch_size:
                yield group.copy()
                group.clear()
    for group in pending.values():
        if group:
            yield group


def _joined(group: _Group, device: torch.device | str) -> Batch:
    parts = [
        window_batch(tokens, [window.start], window.stop - window.start) for tokens, window in group
    ]
    scored = group[0][1].scored
    return Batch(
        torch.cat([part.inputs for part in parts]).to(device),
        torch.cat([part.targets[:, -scored:] for part in parts]).to(device),
    )
