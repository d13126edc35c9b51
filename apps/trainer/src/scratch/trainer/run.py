"""The directory of a run, and what may be in it.

    config.toml        the settings, all of them
    environment.json   versions, machine, device
    tokenizer.json     of the data
    data.json          the manifest of the data
    metrics.jsonl      the journal
    checkpoints/step-00000500/checkpoint.pt
    model.safetensors  the weights, at the end

A checkpoint is a folder that appears under its name by a rename, when it is complete.
"""

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from scratch.bpe import Tokenizer
from scratch.nn import TransformerConfig, TransformerLM, default_d_ff
from scratch.train import (
    Stateful,
    atomic_write,
    load_checkpoint,
    save_checkpoint,
    sync_directory,
)

from .config import ModelSettings, TrainSettings
from .device import describe_environment
from .journal import Journal
from .prepare import PreparedData
from .toml import dump_toml, load_toml

# A run may be resumed with other values of these: they do not change what is computed.
_FREE_TO_CHANGE = frozenset(
    {
        "config",
        "resume",
        "data",
        "out",
        "device",
        "checkpoint_every",
        "keep_checkpoints",
        "evaluate_every",
        "log_every",
    }
)
_NOT_SAVED = frozenset({"config", "resume"})


class RunDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path / "metrics.jsonl")
        self._config = path / "config.toml"
        self._weights = path / "model.safetensors"
        self._checkpoints = path / "checkpoints"

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep other trainers out. Raises `ValueError` if one is at work here."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{self.path} is in use by another trainer") from None
        try:
            yield
        finally:
            lock.release()

    def begin(self, settings: TrainSettings, data: PreparedData, device: torch.device) -> None:
        """Write down what the run is, or check that it is this one, if it is resumed.

        Raises:
            ValueError: if there is another run, or one that is not to be resumed.
        """
        if self.checkpoint_steps() or self.journal.read():
            if not settings.resume:
                raise ValueError(
                    f"{self.path} holds a run already; add --resume to go on with it, "
                    "or choose another --out"
                )
            self._check_same(settings, data)
        self._checkpoints.mkdir(exist_ok=True)
        for unfinished in self._checkpoints.glob(".step-*.tmp"):  # of a process that was killed
            shutil.rmtree(unfinished)
        for unfinished in self.path.glob(".*.????????.tmp"):
            unfinished.unlink()
        data.tokenizer.save(self.path / "tokenizer.json")
        self._write("data.json", json.dumps(data.manifest, indent=2))
        environment = {**describe_environment(device), "seed": settings.seed}
        self._write("environment.json", json.dumps(environment, indent=2))
        self._write("config.toml", dump_toml(settings, leave_out=_NOT_SAVED))

    def settings(self) -> TrainSettings:
        """Return the settings of the run. Raises `ValueError` if there is no run."""
        if not self._config.is_file():
            raise ValueError(
                f"{self.path} must be the directory of a run, got no config.toml in it; "
                "make one with: trainer train --data DATA --out RUN --steps N"
            )
        return load_toml(self._config, TrainSettings)

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.path / "tokenizer.json")

    def save_checkpoint(
        self, model: Stateful, optimizer: Stateful, step: int, *, keep: int
    ) -> None:
        """Commit a checkpoint, then drop all but the newest `keep`."""
        self.journal.sync()
        final = self._checkpoint(step)
        unfinished = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            save_checkpoint(model, optimizer, step, unfinished / "checkpoint.pt")
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        sync_directory(self._checkpoints)
        for old in self.checkpoint_steps()[:-keep]:
            shutil.rmtree(self._checkpoint(old))

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, in order."""
        return sorted(
            int(file.parent.name.removeprefix("step-"))
            for file in self._checkpoints.glob("step-*/checkpoint.pt")
            if file.parent.name.removeprefix("step-").isdecimal()
        )

    def restore(self, model: Stateful, optimizer: Stateful) -> dict[str, Any]:
        """Go back to the newest checkpoint, if there is one; return the totals up to there.

        The journal loses the lines past it.
        """
        step = 0
        if steps := self.checkpoint_steps():
            step = load_checkpoint(self._checkpoint_file(steps[-1]), model, optimizer)
        return self.journal.go_back_to(step)

    def save_weights(self, model: nn.Module) -> None:
        """Write `model.safetensors`: the tensors of the state dict, under their own names."""
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
        }
        with atomic_write(self._weights) as file:
            file.write(save(tensors))

    def load_model(self, device: torch.device) -> TransformerLM:
        """Return the trained model: the final weights, or else the newest checkpoint.

        Raises:
            ValueError: if there is neither.
        """
        model = build_model(self.settings().model, vocab_size=self.tokenizer().vocab_size)
        if self._weights.is_file():
            try:
                weights: dict[str, Tensor] = load(self._weights.read_bytes())
                model.load_state_dict(weights)
            except (SafetensorError, RuntimeError) as error:
                raise ValueError(
                    f"{self._weights} must hold the weights of this run: {error}"
                ) from error
        elif steps := self.checkpoint_steps():
            load_checkpoint(self._checkpoint_file(steps[-1]), model)
        else:
            raise ValueError(
                f"{self.path} must hold weights, got neither model.safetensors nor a checkpoint; "
                "train it further with --resume"
            )
        return model.to(device)

    def _checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:08}"

    def _checkpoint_file(self, step: int) -> Path:
        return self._checkpoint(step) / "checkpoint.pt"

    def _check_same(self, settings: TrainSettings, data: PreparedData) -> None:
        old = _flat(self.settings().model_dump(exclude=set(_FREE_TO_CHANGE)))
        new = _flat(settings.model_dump(exclude=set(_FREE_TO_CHANGE)))
        differences = [
            f"{key} was {old[key]}, is {new[key]}" for key in new if old[key] != new[key]
        ]
        if (
            self.path.joinpath("data.json").exists()
            and json.loads(self.path.joinpath("data.json").read_bytes()) != data.manifest
        ):
            differences.append("the data is not the same")
        if differences:
            raise ValueError(
                f"{self.path} holds another run, which cannot be resumed with these settings: "
                + "; ".join(differences)
            )

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.path / name) as file:
            file.write(text.encode())


def build_model(settings: ModelSettings, *, vocab_size: int) -> TransformerLM:
    """Return a model of the given shape with random weights (torch's own generator)."""
    values = with_d_ff(settings).model_dump()
    return TransformerLM(TransformerConfig(vocab_size=vocab_size, **values))


def with_d_ff(settings: ModelSettings) -> ModelSettings:
    """Return the settings with the usual `d_ff` filled in, if none is given."""
    if settings.d_ff is not None:
        return settings
    d_ff = default_d_ff(settings.d_model, settings.feed_forward)
    return settings.model_copy(update={"d_ff": d_ff})


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
