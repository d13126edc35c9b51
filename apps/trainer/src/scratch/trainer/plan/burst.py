"""A few real updates on random tokens, to tell how long a training takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from scratch.nn import TransformerLM, fast_matmul
from scratch.optim import AdamW, Hybrid, clip_grad_norm
from scratch.train import Batch, train_steps

from ..config import TrainSettings
from ..runs.run import build_model
from ..training.compiling import Loss, build_loss, loss_in
from ..training.optimization import build_optimizer, build_schedule
from ..using.score import next_token_loss

# An update of a large batch can take a minute, so one of fewer sequences is timed.
_UPDATE_SECONDS = 1.0
_MOST_UPDATES, _ALL_UPDATES_SECONDS = 5, 10.0
_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Burst:
    """What was measured.

    Attributes:
        sequences: of each update.
        updates: how many were timed, after others that were not.
        seconds: of an update, the median.
        optimizer_seconds: the part of it that does not grow with the batch: clipping and the step.
        compiled: whether the model was.
    """

    sequences: int
    updates: int
    seconds: float
    optimizer_seconds: float
    compiled: bool

    def update_seconds(self, batch_size: int) -> float:
        """Return how long an update of `batch_size` sequences takes."""
        passes = max(0.0, self.seconds - self.optimizer_seconds)
        return passes * batch_size / self.sequences + self.optimizer_seconds


def measure(
    settings: TrainSettings, *, vocab_size: int, device: torch.device, micro_batch: int
) -> Burst:
    """Make a few updates as the settings say, and time them.

    Each is of one micro-batch, of as many sequences as take about a second, but of no more than
    `micro_batch`.
    """
    model = build_model(settings.model, vocab_size=vocab_size).to(device)
    optimizer = build_optimizer(settings.optimizer, model)
    plain = loss_in(settings.precision, device, next_token_loss)

    def seconds_of(size: int) -> float:
        return time_updates(model, optimizer, plain, size, settings, updates=2)[-1]

    size, expected = choose_size(seconds_of, micro_batch)
    batch = _random_batch(model, size)
    loss, compiled = build_loss(settings.precision, settings.compile, model, batch)
    optimizer = build_optimizer(settings.optimizer, model, compiled=compiled)
    updates = max(1, min(_MOST_UPDATES, round(_ALL_UPDATES_SECONDS / expected)))
    # The first makes what the later ones find: moments, compiled functions, pages of memory.
    seconds = time_updates(model, optimizer, loss, size, settings, updates=1 + updates)[1:]
    return Burst(
        sequences=size,
        updates=len(seconds),
        seconds=median(seconds),
        optimizer_seconds=min(
            median(seconds), _time_steps(model, optimizer, loss, batch, settings)
        ),
        compiled=compiled,
    )


def choose_size(seconds_of: Callable[[int], float], micro_batch: int) -> tuple[int, float]:
    """Return how many sequences to time, and about how long an update of them takes.

    1, 2, 4 ..., until an update of twice as many would be too long.
    """
    size, seconds = 1, seconds_of(1)
    while size < micro_batch and 2 * seconds <= _UPDATE_SECONDS:
        size = min(2 * size, micro_batch)
        seconds = seconds_of(size)
    return size, seconds


def time_updates(
    model: TransformerLM,
    optimizer: AdamW | Hybrid,
    loss: Loss,
    size: int,
    settings: TrainSettings,
    *,
    updates: int,
) -> list[float]:
    """Make updates of `size` random sequences; return how long each took, until it was done."""
    batch = _random_batch(model, size)
    seconds: list[float] = []
    begin = time.perf_counter()
    for step in train_steps(
        model,
        optimizer,
        lambda _: [batch],
        loss=loss,
        context=fast_matmul,
        schedule=build_schedule(settings.optimizer, total_steps=updates),
        clip=lambda parameters: clip_grad_norm(parameters, settings.optimizer.max_grad_norm),
        stop=updates,
    ):
        step.loss.item()  # waits for the device
        end = time.perf_counter()
        seconds.append(end - begin)
        begin = end
    return seconds


def _time_steps(
    model: TransformerLM,
    optimizer: AdamW | Hybrid,
    loss: Loss,
    batch: Batch,
    settings: TrainSettings,
) -> float:
    """Return how long clipping and the step of the optimizer take, the median of a few."""
    loss(model, batch).backward()  # pyright: ignore[reportUnknownMemberType]
    finite = torch.ones((), dtype=torch.bool, device=batch.inputs.device)
    seconds: list[float] = []
    for _ in range(_STEPS):
        begin = time.perf_counter()
        with fast_matmul():
            clip_grad_norm(model.parameters(), settings.optimizer.max_grad_norm)
            optimizer.masked_step(finite)
        next(model.parameters()).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    optimizer.zero_grad()
    return median(seconds)


def _random_batch(model: TransformerLM, size: int) -> Batch:
    chance = torch.Generator().manual_seed(0)
    shape = (size, model.config.context_length + 1)
    ids = torch.randint(model.config.vocab_size, shape, generator=chance)
    ids = ids.to(model.head_weight.device)
    return Batch(ids[:, :-1], ids[:, 1:])
