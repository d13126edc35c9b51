"""The directory of a run, and what may be in it.

config.toml        the settings, all of them
environment.json   versions, machine, device, git commit
tokenizer.json     of the data
data.json          the manifest of the data
metrics.jsonl      the journal
checkpoints/       see `checkpoints.py`
model.safetensors  the weights, at the end
.lock              held while somebody trains here
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from scratch.bpe import Tokenizer
from scratch.nn import TransformerConfig, TransformerLM, default_d_ff
from scratch.train import ALONE, World, atomic_write, whole_state

from ..commands import Checkpoint
from ..config import BESIDE_THE_COMPUTATION, ModelSettings, TrainSettings
from ..data.prepare import PreparedData
from ..device import describe_environment
from ..fields import flat
from ..toml import dump_toml
from .checkpoints import Checkpoints, Optimizer
from .journal import FollowedJournal, Journal
from .run_files import RunFiles, Status

# A run may be resumed with other values of these. How a batch is cut, and whether the model is
# compiled, changes the last digits; both may have to change for a run to go on at all.
_FREE_TO_CHANGE = BESIDE_THE_COMPUTATION | {
    "data",
    "init_from",
    "compile",
    "micro_batch_size",
    "gather_dtype",
}
# What belongs to one session of the run, and not to the run.
_NOT_SAVED = frozenset({"config", "preset", "resume", "resume_step", "max_seconds", "max_tokens"})

# Who lists runs holds the lock of each for a moment.
_GLANCE_SECONDS = 0.2


class RunDirectory:
    """The directory of a run.

    Of several processes of a `world`, the main one writes everything but its checkpoints, to which
    all of them write. They call the methods that train at the same time.
    """

    def __init__(self, path: Path, world: World = ALONE) -> None:
        self.path, self.world = path, world
        journal = path / "metrics.jsonl"
        self.journal = Journal(journal) if world.is_main else FollowedJournal(journal)
        self._config = path / "config.toml"
        self._weights = path / "model.safetensors"
        self.checkpoints = Checkpoints(path / "checkpoints", world)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep other trainers out. Raises `ValueError` if one is at work here."""
        lock = FileLock(self.path / ".lock")

        def acquire() -> None:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=_GLANCE_SECONDS)
            except Timeout:
                raise ValueError(f"{self.path} is in use by another trainer") from None

        self.world.on_main(acquire)
        try:
            yield
        finally:
            lock.release()

    def begin(
        self,
        settings: TrainSettings,
        data: PreparedData,
        device: torch.device,
        *,
        parameters: int | None = None,
    ) -> None:
        """Write down what the run is, or check that it is this one, if it is resumed.

        Raises:
            ValueError: if there is another run, or one that is not to be resumed.
        """
        self.world.on_main(lambda: self._begin(settings, data, device, parameters))
        config = self.world.on_main(self._config.read_bytes)
        if self.world.any(not self._config.is_file() or self._config.read_bytes() != config):
            raise ValueError(
                f"{self.path} must be on a disk that all processes see, got one of the main one's"
            )
        lines = self.world.on_main(self.journal.read)
        if isinstance(self.journal, FollowedJournal):
            self.journal.begin_with(lines)

    def _begin(
        self,
        settings: TrainSettings,
        data: PreparedData,
        device: torch.device,
        parameters: int | None,
    ) -> None:
        if self.checkpoint_steps() or self.journal.read():
            if not settings.resume and settings.resume_step is None:
                raise ValueError(
                    f"{self.path} holds a run already; add --resume to go on with it, "
                    "or choose another --out"
                )
            self._check_same(settings, data)
        self.checkpoints.clear_unfinished()
        for unfinished in self.path.glob(".*.????????.tmp"):  # of a process that was killed
            unfinished.unlink()
        data.tokenizer.save(self.path / "tokenizer.json")
        self._write("data.json", json.dumps(data.manifest, indent=2))
        environment = {
            **describe_environment(device),
            "seed": settings.seed,
            "parameters": parameters,
            "processes": self.world.size,
        }
        self._write("environment.json", json.dumps(environment, indent=2))
        self._write("config.toml", dump_toml(settings, leave_out=_NOT_SAVED))

    def is_finished(self) -> bool:
        """Return whether the training got to its end, and was evaluated there."""
        return any(record.get("event") == "finished" for record in self.journal.read()[-1:])

    def status(self) -> Status:
        return RunFiles(self.path).state().status

    def settings(self) -> TrainSettings:
        """Return the settings of the run. Raises `ValueError` if there is no run."""
        return RunFiles(self.path).settings()

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.path / "tokenizer.json")

    def save_checkpoint(
        self, model: nn.Module, optimizer: Optimizer, step: int, *, keep: int
    ) -> None:
        """Begin to write a checkpoint; when it is complete, drop all but the newest and the best.

        `checkpoints.wait()` returns when it is on the disk.
        """
        best = self.best_step()
        self.checkpoints.save(
            model,
            optimizer,
            step,
            keep=keep,
            best=() if best is None else (best,),
            before=self.journal.sync,
        )

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, in order."""
        return self.checkpoints.steps()

    def best_step(self) -> int | None:
        """Return the step of the checkpoint with the least held-out loss, if any was evaluated."""
        there = self.checkpoint_steps()
        losses = self.journal.held_out_losses()
        return min((step for step in there if step in losses), key=losses.__getitem__, default=None)

    def restore(
        self, model: nn.Module, optimizer: Optimizer, *, step: int | None = None
    ) -> dict[str, Any]:
        """Go back to a checkpoint; return the totals up to there.

        By default to the newest that can be read, or to the start if there is none. The journal
        loses the lines past it, and so does the directory what came after a `step` that is named.

        Raises:
            ValueError: if there is no checkpoint of that step, or none can be read.
        """
        if step is None:
            return self.journal.go_back_to(self.checkpoints.load_newest(model, optimizer))
        self.checkpoints.load(step, model, optimizer)
        totals = self.journal.go_back_to(step)
        self.checkpoints.remove_after(step)
        self.world.on_main(lambda: self._weights.unlink(missing_ok=True))
        return totals

    def save_weights(self, model: nn.Module) -> None:
        """Write `model.safetensors`: the tensors of the state dict, under their own names."""
        state = whole_state(model, self.world)

        def write() -> None:
            tensors = {name: tensor.contiguous() for name, tensor in state.items()}
            with atomic_write(self._weights) as file:
                file.write(save(tensors))

        self.world.on_main(write)

    def load_model(self, device: torch.device, checkpoint: Checkpoint = "final") -> TransformerLM:
        """Return the trained model.

        Args:
            device: where to put it.
            checkpoint: "final" for the weights at the end, or else the newest checkpoint; "latest"
                for the newest checkpoint, "best" for that with the least held-out loss; or a step.

        Raises:
            ValueError: if there is no such thing, or it is damaged.
        """
        model = build_model(self.settings().model, vocab_size=self.tokenizer().vocab_size)
        if checkpoint == "final" and self._weights.is_file():
            self.load_weights(model)
            return model.to(device)
        steps = self.checkpoint_steps()
        step = checkpoint if isinstance(checkpoint, int) else max(steps, default=None)
        if checkpoint == "best":
            step = self.best_step()
            if steps and step is None:
                raise ValueError(
                    f"{self.path} must hold a checkpoint that was evaluated to have a best one; "
                    "name a step, or latest"
                )
        if step is None:
            raise ValueError(
                f"{self.path} must hold weights, got neither model.safetensors nor a checkpoint; "
                "train it further with --resume"
            )
        self.checkpoints.load(step, model)
        return model.to(device)

    def load_weights(self, model: nn.Module) -> None:
        """Load `model.safetensors`. Raises `ValueError` if it is damaged or of another model."""
        try:
            weights: dict[str, Tensor] = load(self._weights.read_bytes())
            model.load_state_dict(weights)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{self._weights} must hold the weights of this run: {error}"
            ) from error

    def _check_same(self, settings: TrainSettings, data: PreparedData) -> None:
        old = flat(self.settings().model_dump(exclude=set(_FREE_TO_CHANGE)))
        new = flat(settings.model_dump(exclude=set(_FREE_TO_CHANGE)))
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
