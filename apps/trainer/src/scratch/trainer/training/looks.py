"""Looks at a training: what the device has computed is read, written down and judged.

Between two looks nobody waits for the device.
"""

import math
from typing import Any

from scratch.nn import TransformerLM, flops_per_token, mfu
from scratch.train import NonFiniteError, Step

from ..device import memory_bytes
from ..runs.run import RunDirectory
from .divergence import DivergedError, DivergenceDetector

Totals = dict[str, Any]  # of a run up to an update: step, tokens, seconds
Pending = list[tuple[Step, Totals]]

_NORMS_TOLD = 5


def read_steps(
    pending: Pending, last: Totals, model: TransformerLM, *, processes: int = 1
) -> list[dict[str, Any]]:
    """Return the journal's lines of the steps since the look after `last`.

    Tokens per second are those of all processes; the utilization is that of one device, the mean.
    """
    device = model.head_weight.device
    now = pending[-1][1]
    losses = [(float(step.loss), float(step.grad_norm)) for step, _ in pending]
    seconds = now["seconds"] - last["seconds"]
    tokens_per_second = (now["tokens"] - last["tokens"]) / seconds if seconds > 0 else 0.0
    share = mfu(tokens_per_second / processes, flops_per_token(model.config), device)
    pace = {
        "tokens_per_second": round(tokens_per_second, 1),
        **({} if share is None else {"mfu": round(share, 4)}),
        "memory_bytes": memory_bytes(device),
    }
    return [
        {**totals, "loss": loss, "lr": step.lr, "grad_norm": grad_norm, **pace}
        for (step, totals), (loss, grad_norm) in zip(pending, losses, strict=True)
    ]


def judge_steps(pending: Pending, detector: DivergenceDetector, run: RunDirectory) -> None:
    """Raise if an update was not finite, or the loss is lost, with what one wants to know then.

    Raises:
        NonFiniteError: if a loss or a gradient is not finite.
        DivergedError: if the detector says so.
    """
    for step, _ in pending:
        try:
            step.check_finite()
            detector.add(step.number, float(step.loss))
        except (NonFiniteError, DivergedError) as error:
            advice = f"{error}; {_last_norms(run, step)}; {_checkpoints_left(run)}"
            raise type(error)(advice) from None


def _last_norms(run: RunDirectory, step: Step) -> str:
    norms = [
        record["grad_norm"]
        for record in run.journal.read()
        if record["step"] < step.number and record.get("grad_norm") is not None
    ]
    told = ", ".join(f"{norm:.3g}" for norm in norms[-_NORMS_TOLD:] if math.isfinite(norm))
    return f"learning rate {step.lr:.3g}, gradient norms before: {told or 'none'}"


def _checkpoints_left(run: RunDirectory) -> str:
    steps, best = run.checkpoint_steps(), run.best_step()
    if not steps:
        return "no checkpoint yet"
    told = f"the newest checkpoint is of step {steps[-1]}"
    return told if best is None else f"{told}, the best on held-out text of step {best}"
