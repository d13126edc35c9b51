"""Training: prepared data in, a run directory out, told from top to bottom."""

import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scratch.nn import TransformerLM, fast_matmul
from scratch.optim import ByClock, clip_grad_norm
from scratch.train import (
    Batch,
    NonFiniteError,
    Step,
    Tokens,
    WindowSampler,
    train_steps,
    window_batch,
)

from .config import OptimizerSettings, TrainSettings
from .device import choose_device, choose_precision
from .display import Progress, say
from .optimization import build_optimizer, build_schedule
from .prepare import PreparedData
from .run import RunDirectory, build_model, with_d_ff
from .score import evaluate_tokens, next_token_loss


def train(settings: TrainSettings) -> RunDirectory:
    """Train as the settings say, from the start or from the newest checkpoint.

    Raises:
        ValueError: if settings, data and run directory do not fit together.
        NonFiniteError: if a loss or a gradient is not finite.
        OSError: if something cannot be written; the newest checkpoint stays.
    """
    if (settings.steps is None) == (settings.train_seconds is None):
        raise ValueError("train needs either --steps or --train-seconds, not both")
    data = PreparedData.open(settings.data)
    device = choose_device(settings.device)
    if settings.model.attention == "flex" and device.type == "cpu":
        raise ValueError(
            "model.attention must not be flex on a CPU, where torch has no gradient of it; "
            "auto, reference, block and fused have one"
        )
    settings = settings.model_copy(update={"model": with_d_ff(settings.model)})
    torch.manual_seed(settings.seed)  # pyright: ignore[reportUnknownMemberType]
    model = build_model(settings.model, vocab_size=data.tokenizer.vocab_size).to(device)
    sampler = WindowSampler(
        num_tokens=len(data.train),
        context_length=settings.model.context_length,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    run = RunDirectory(settings.out)
    with run.locked():
        run.begin(settings, data, device)
        totals = _train(settings, run, model, sampler, data)
        run.save_weights(model)
        say(f"the weights are in {run.path / 'model.safetensors'}")
        _evaluate_if_missing(run, model, data, totals)
    return run


def _train(
    settings: TrainSettings,
    run: RunDirectory,
    model: TransformerLM,
    sampler: WindowSampler,
    data: PreparedData,
) -> dict[str, Any]:
    """Make the updates that are left; return the totals of the last one."""
    optimizer = build_optimizer(settings.optimizer, model)
    totals = run.restore(model, optimizer)
    watch, tokens = Stopwatch(totals["seconds"]), totals["tokens"]
    pace = Pace(settings, watch)
    if totals["step"]:
        say(f"going on after step {totals['step']:,}")
        if totals["step"] % settings.evaluate_every == 0:
            with watch.paused():
                _evaluate_if_missing(run, model, data, totals)
        if pace.fraction(totals["step"], totals["seconds"]) >= 1:
            return totals
    say(
        f"{sum(p.numel() for p in model.parameters()):,} parameters on {model.head_weight.device}, "
        f"{len(data.train):,} tokens of {data.tokenizer.vocab_size:,} kinds to learn from"
    )
    pending: list[tuple[Step, dict[str, Any]]] = []  # steps whose losses nobody has read yet
    with Progress("training") as progress:
        for step in train_steps(
            model,
            optimizer,
            lambda done: micro_batches(data.train, sampler, done, settings, model),
            loss=loss_in(settings.precision, model.head_weight.device),
            context=fast_matmul,
            schedule=pace.schedule(settings.optimizer),
            clip=lambda parameters: clip_grad_norm(parameters, settings.optimizer.max_grad_norm),
            start=totals["step"],
            stop=settings.steps or sys.maxsize,
        ):
            number, seconds = step.number, watch.seconds
            tokens += step.tokens
            totals = {"step": number, "tokens": tokens, "seconds": seconds}
            pending.append((step, totals))
            fraction = pace.fraction(number, seconds)
            finished = fraction >= 1
            save = finished or number % settings.checkpoint_every == 0
            evaluate = number % settings.evaluate_every == 0 and not finished
            if not (save or evaluate or number == 1 or number % settings.log_every == 0):
                continue
            _write_down(run, pending)
            progress.update(
                fraction,
                step=number,
                loss=float(step.loss),
                tokens_per_second=tokens / seconds,
                seconds_left=seconds / fraction * (1 - fraction),
            )
            with watch.paused():
                if save:
                    run.save_checkpoint(model, optimizer, number, keep=settings.keep_checkpoints)
                if evaluate:
                    _evaluate(run, model, data, totals)
            pending.clear()
            if finished:
                break
    return totals


def micro_batches(
    tokens: Tokens, sampler: WindowSampler, done: int, settings: TrainSettings, model: TransformerLM
) -> list[Batch]:
    """Return the batch after `done` updates, in parts of `micro_batch_size` sequences."""
    starts = sampler.starts(done)
    size = settings.micro_batch_size or len(starts)
    return [
        window_batch(
            tokens, starts[first : first + size], sampler.context_length, model.head_weight.device
        )
        for first in range(0, len(starts), size)
    ]


def loss_in(precision: str, device: torch.device) -> Callable[[TransformerLM, Batch], Tensor]:
    """Return `next_token_loss` with the matrix products of the forward pass in a precision."""
    dtype = choose_precision(precision, device)

    def loss(model: TransformerLM, batch: Batch) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return next_token_loss(model, batch)

    return loss


class Stopwatch:
    """Seconds of training, those of earlier sessions of the run included, pauses left out."""

    def __init__(self, seconds: float) -> None:
        self._begin = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    @contextmanager
    def paused(self) -> Generator[None]:
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin


class Pace:
    """How far the training is, by updates or by a budget of time."""

    # A budget of time is cut into so many parts for a schedule that counts.
    _PARTS = 1000

    def __init__(self, settings: TrainSettings, watch: Stopwatch) -> None:
        self._steps, self._budget_seconds = settings.steps, settings.train_seconds
        self._watch = watch

    def fraction(self, number: int, seconds: float) -> float:
        """Return how much is done after `number` updates in `seconds`; 1 or more is all."""
        if self._steps is not None:
            return number / self._steps
        assert self._budget_seconds is not None
        return seconds / self._budget_seconds

    def schedule(self, settings: OptimizerSettings) -> Callable[[int], float]:
        if self._steps is not None:
            return build_schedule(settings, total_steps=self._steps)
        assert self._budget_seconds is not None
        return ByClock(
            schedule=build_schedule(settings, total_steps=self._PARTS),
            budget_seconds=self._budget_seconds,
            clock=lambda: self._watch.seconds,
        )


def _write_down(run: RunDirectory, pending: list[tuple[Step, dict[str, Any]]]) -> None:
    """Read the losses of the steps since the last look, and put them into the journal."""
    run.journal.append(
        {**record, "loss": float(step.loss), "lr": step.lr, "grad_norm": float(step.grad_norm)}
        for step, record in pending
    )
    for step, _ in pending:
        try:
            step.check_finite()
        except NonFiniteError as error:
            steps = run.checkpoint_steps()
            newest = (
                f"the newest checkpoint is of step {steps[-1]}" if steps else "no checkpoint yet"
            )
            raise NonFiniteError(f"{error}; {newest}") from None


def _evaluate_if_missing(
    run: RunDirectory, model: TransformerLM, data: PreparedData, totals: dict[str, Any]
) -> None:
    """Evaluate, unless an earlier session of the run has done so after the same update."""
    if not any(
        record["step"] == totals["step"] and record.get("val_loss") is not None
        for record in run.journal.read()
    ):
        _evaluate(run, model, data, totals)


def _evaluate(
    run: RunDirectory, model: TransformerLM, data: PreparedData, totals: dict[str, Any]
) -> None:
    """Put the loss on the held-out text, if there is any, into the journal."""
    if data.validation is None:
        return
    evaluation = evaluate_tokens(model, data.validation)
    values = {"val_loss": evaluation.loss, "val_perplexity": evaluation.perplexity}
    run.journal.append([{**totals, **values}])
    say(f"step {totals['step']:,}: held-out loss {evaluation.loss:.4f}")
    if not math.isfinite(evaluation.loss):
        raise NonFiniteError(
            f"step {totals['step']}: the held-out loss must be finite, got {evaluation.loss}; "
            "the weights are beyond use, and a lower learning rate may help"
        )
