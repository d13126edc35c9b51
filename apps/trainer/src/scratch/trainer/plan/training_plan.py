"""What a training takes: counted, estimated, and where that is wanted measured."""

import difflib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from scratch.bpe import Tokenizer
from scratch.nn import (
    FlopsPerToken,
    MemoryEstimate,
    ParameterCount,
    TransformerConfig,
    count_parameters,
    flops_per_token,
    mfu,
)

from ..commands import PlanSettings
from ..config import TrainSettings
from ..data.prepared import MANIFEST, read_manifest
from ..device import choose_device
from ..hub.datasets import DATASETS
from ..presets import preset_names, read_preset
from ..runs.run import with_d_ff
from ..toml import load_toml, tell_invalid
from ..training.memory_at_hand import USABLE_FRACTION, free_bytes
from ..training.micro_batch import estimate, is_out_of_memory, largest_that_fits, needed_bytes
from ..training.pace import total_steps
from ..watching.display import say
from .burst import Burst, measure

_NOWHERE = Path("\0")  # no file can have this name


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a training takes.

    Attributes:
        micro_batch: sequences in memory at a time.
        largest_micro_batch: as many as the device has memory for now, `None` for not even one.
        memory: of an update with `micro_batch`.
        updates, tokens: in all, `None` where the settings do not say how long to train.
        data_tokens: of the data to learn from, where there is some already.
        burst: the measurement, if there was one.
    """

    name: str
    device: torch.device
    settings: TrainSettings
    config: TransformerConfig
    parameters: ParameterCount
    flops: FlopsPerToken
    free_bytes: int
    micro_batch: int
    largest_micro_batch: int | None
    memory: MemoryEstimate
    data_tokens: int | None
    burst: Burst | None

    @property
    def tokens_per_update(self) -> int:
        return self.settings.batch_size * self.config.context_length

    @property
    def update_seconds(self) -> float | None:
        return None if self.burst is None else self.burst.update_seconds(self.settings.batch_size)

    @property
    def updates(self) -> int | None:
        settings, each = self.settings, self.update_seconds
        if settings.steps is None and settings.train_tokens is None:
            if settings.train_seconds is None or each is None:
                return None
            return max(1, round(settings.train_seconds / each))
        return total_steps(settings)

    @property
    def tokens(self) -> int | None:
        return None if self.updates is None else self.updates * self.tokens_per_update

    @property
    def seconds(self) -> float | None:
        """How long all updates take; evaluations and checkpoints come on top."""
        if self.settings.train_seconds is not None:
            return self.settings.train_seconds
        if self.updates is None or self.update_seconds is None:
            return None
        return self.updates * self.update_seconds

    @property
    def tokens_per_second(self) -> float | None:
        each = self.update_seconds
        return None if each is None else self.tokens_per_update / each

    @property
    def mfu(self) -> float | None:
        rate = self.tokens_per_second
        return None if rate is None else mfu(rate, self.flops, self.device)


def plan_training(settings: PlanSettings) -> TrainingPlan:
    device = choose_device(settings.device)
    told = read_settings(settings.what)
    train = _with_changes(told, settings)
    vocab_size, data_tokens = _data_of(settings, train)
    config = TransformerConfig(vocab_size=vocab_size, **train.model.model_dump())
    free = free_bytes(device)
    largest = largest_that_fits(
        train.batch_size,
        lambda size: needed_bytes(config, train, size, device) <= USABLE_FRACTION * free,
    )
    wanted = train.micro_batch_size
    micro_batch = wanted if isinstance(wanted, int) else train.batch_size
    if wanted == "auto":
        micro_batch = largest or 1
    burst = None
    if settings.measure:
        say(f"measuring a few updates on {device}")
        burst = _measure(train, vocab_size, device, min(micro_batch, largest or 0))
    return TrainingPlan(
        name=settings.what,
        device=device,
        settings=train,
        config=config,
        parameters=count_parameters(config),
        flops=flops_per_token(config),
        free_bytes=free,
        micro_batch=micro_batch,
        largest_micro_batch=largest,
        memory=estimate(config, train, micro_batch, device),
        data_tokens=data_tokens,
        burst=burst,
    )


def _measure(
    settings: TrainSettings, vocab_size: int, device: torch.device, micro_batch: int
) -> Burst:
    try:
        if micro_batch:
            return measure(settings, vocab_size=vocab_size, device=device, micro_batch=micro_batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    raise ValueError(
        f"there is not enough memory on {device} to measure; --no-measure plans without"
    )


def read_settings(what: str) -> TrainSettings:
    """Return the settings that `what` names: a preset, a TOML file, or those of a run.

    Data that they do not name is at a path that cannot be.

    Raises:
        ValueError: if there is nothing of this name, or something is wrong in it.
    """
    placeholders = {"data": _NOWHERE, "out": _NOWHERE}
    path = Path(what)
    if what in preset_names():
        try:
            return TrainSettings.model_validate({**placeholders, **read_preset(what)})
        except ValidationError as error:
            raise ValueError(f"preset {what}: {tell_invalid(error, TrainSettings)}") from None
    if (path / "config.toml").is_file():
        return load_toml(path / "config.toml", TrainSettings)
    if path.is_file():
        return load_toml(path, TrainSettings, placeholders=placeholders)
    near = difflib.get_close_matches(what, [*preset_names(), "gpt2"], 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"plan needs a TOML file, the directory of a run, gpt2 or a preset, got {what}; {hint}"
        f"presets are {', '.join(preset_names())}"
    )


def _with_changes(train: TrainSettings, settings: PlanSettings) -> TrainSettings:
    model = train.model
    if settings.context_length is not None:
        model = model.model_copy(update={"context_length": settings.context_length})
    batch_size = settings.batch_size or train.batch_size
    return train.model_copy(update={"model": with_d_ff(model), "batch_size": batch_size})


def _data_of(settings: PlanSettings, train: TrainSettings) -> tuple[int, int | None]:
    """Return the size of the vocabulary, and the tokens to learn from if there are some yet."""
    vocab_size, tokens = None, None
    for manifest_path in (Path(settings.what) / "data.json", train.data / MANIFEST):
        if manifest_path.is_file():
            manifest = read_manifest(manifest_path)
            vocab_size, tokens = manifest["vocab_size"], manifest["splits"]["train"]["tokens"]
            break
    else:
        tokenizer = Path(settings.what) / "tokenizer.json"
        if tokenizer.is_file():  # of a run that was imported
            vocab_size = Tokenizer.load(tokenizer).vocab_size
        elif settings.what in preset_names():  # which begin with the name of their data set
            first_part = settings.what.split("-")[0]
            sizes = (data.vocab_size for name, data in DATASETS.items() if name == first_part)
            vocab_size = next(sizes, None)
    if settings.vocab_size is not None:
        return settings.vocab_size, tokens if settings.vocab_size == vocab_size else None
    if vocab_size is None:
        raise ValueError(
            f"plan needs the size of the vocabulary, which {settings.what} does not tell as long "
            "as its data is not prepared; give --vocab-size, such as --vocab-size 4096"
        )
    return vocab_size, tokens
