"""What the files of a run tell about one of its models: how it came about, and how good it is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from scratch.nn import TransformerLM
from scratch.train import Tokens

from ..commands import Checkpoint
from ..config import TrainSettings
from ..data.prepared import PreparedData
from ..runs.run import RunDirectory


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        name: of the run.
        settings: of the run.
        step: after which update; None where the journal tells of none.
        update: the line of the journal at that step, or an empty one.
        evaluation: the line of the last evaluation at that step, or an empty one.
        manifest: of the data, or an empty one.
        environment: versions and machine, or nothing.
    """

    name: str
    settings: TrainSettings
    step: int | None
    update: dict[str, Any]
    evaluation: dict[str, Any]
    manifest: dict[str, Any]
    environment: dict[str, Any]

    @classmethod
    def of(cls, run: RunDirectory, checkpoint: Checkpoint) -> Self:
        records = run.journal.read()
        step = _step(run, checkpoint, records)
        here = [record for record in records if record["step"] == step]
        updates = [record for record in here if "loss" in record]
        evaluations = [record for record in here if record.get("val_loss") is not None]
        return cls(
            name=run.path.resolve().name,
            settings=run.settings(),
            step=step,
            update=updates[-1] if updates else {},
            evaluation=evaluations[-1] if evaluations else {},
            manifest=_read_object(run.path / "data.json"),
            environment=_read_object(run.path / "environment.json"),
        )

    @property
    def is_imported(self) -> bool:
        """Whether others trained it."""
        return self.step is None and "imported" in self.environment

    @property
    def which(self) -> str:
        if self.is_imported:
            return "imported weights"
        return "final weights" if self.step is None else f"weights of step {self.step:,}"

    @property
    def figures(self) -> dict[str, float]:
        """Held-out figures by their names, those that were measured."""
        names = ("val_loss", "val_perplexity", "val_bits_per_byte")
        return {
            name: self.evaluation[name] for name in names if self.evaluation.get(name) is not None
        }

    def summary(self) -> dict[str, Any]:
        """Return what a program may want to know."""
        trained = {key: self.update[key] for key in ("tokens", "seconds") if key in self.update}
        return {"run": self.name, "step": self.step, **trained, **self.figures}

    def held_out_tokens(self, model: TransformerLM) -> Tokens | None:
        """Return as many held-out tokens as the context holds, where the data is still there."""
        if not self.settings.data.joinpath("manifest.json").is_file():
            return None
        tokens = PreparedData.open(self.settings.data).validation
        context = model.config.context_length
        if tokens is None or len(tokens) < context:
            return None
        ids = np.asarray(tokens[:context], np.int64)
        return ids if ids.max() < model.config.vocab_size else None


def _step(run: RunDirectory, checkpoint: Checkpoint, records: list[dict[str, Any]]) -> int | None:
    if isinstance(checkpoint, int):
        return checkpoint
    if checkpoint == "best":
        return run.best_step()
    if checkpoint == "final" and run.path.joinpath("model.safetensors").is_file():
        return max((record["step"] for record in records if "loss" in record), default=None)
    return max(run.checkpoint_steps(), default=None)


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold a JSON object: {error}") from None
