"""Looks at what the model can do so far: the loss on held-out text, and a sample of its own."""

import math
from typing import Any

from torch import Tensor

from scratch.nn import TransformerLM
from scratch.train import NonFiniteError, is_sharded, whole_state

from ..config import TrainSettings
from ..data.prepared import PreparedData
from ..runs.run import RunDirectory
from ..using.sample import continue_text
from ..using.score import evaluate_tokens
from ..watching.display import say
from ..watching.trackers import Trackers
from .looks import Totals

_SAMPLE_TOKENS = 64


def evaluate_if_missing(
    run: RunDirectory,
    model: TransformerLM,
    data: PreparedData,
    totals: Totals,
    trackers: Trackers,
) -> None:
    """Evaluate, unless an earlier session of the run has done so after the same update."""
    if not any(
        record["step"] == totals["step"] and record.get("val_loss") is not None
        for record in run.journal.read()
    ):
        evaluate_run(run, model, data, totals, trackers)


def evaluate_run(
    run: RunDirectory,
    model: TransformerLM,
    data: PreparedData,
    totals: Totals,
    trackers: Trackers,
) -> list[dict[str, Any]]:
    """Put the loss on the held-out text, if any, into journal and trackers; return that line."""
    if data.validation is None:
        return []
    evaluation = evaluate_tokens(model, data.validation, world=run.world)
    record = {
        **totals,
        "val_loss": evaluation.loss,
        "val_perplexity": evaluation.perplexity,
        "val_bits_per_byte": evaluation.bits_per_byte(
            data.manifest["splits"]["validation"]["bytes"]
        ),
    }
    run.journal.append([record])
    trackers.log(record)
    say(f"step {totals['step']:,}: held-out loss {evaluation.loss:.4f}")
    if not math.isfinite(evaluation.loss):
        raise NonFiniteError(
            f"step {totals['step']}: the held-out loss must be finite, got {evaluation.loss}; "
            "the weights are beyond use, and a lower learning rate may help"
        )
    return [record]


def write_sample(
    settings: TrainSettings,
    run: RunDirectory,
    model: TransformerLM,
    data: PreparedData,
    totals: Totals,
) -> None:
    """Put what the model writes now into the journal. Of several processes the main one samples."""
    state = whole_state(model, run.world) if is_sharded(model) else None
    if not run.world.is_main:
        return
    whole = model if state is None else _with_weights(state, model)
    pieces = continue_text(
        whole,
        data.tokenizer,
        settings.sample_prompt,
        max_new_tokens=_SAMPLE_TOKENS,
        temperature=0.8,
        top_k=None,
        top_p=0.95,
        seed=settings.seed,
    )
    text = "".join(pieces)
    run.journal.append([{**totals, "prompt": settings.sample_prompt, "sample": text}])
    on_one_line = " ".join(f"{settings.sample_prompt}{text}".split())
    say(f"step {totals['step']:,} writes: {on_one_line}")


def _with_weights(state: dict[str, Tensor], model: TransformerLM) -> TransformerLM:
    """Return a whole model of the shape of a spread one, where that is."""
    whole = TransformerLM(model.config)
    whole.load_state_dict(state)
    return whole.to(model.head_weight.device)
