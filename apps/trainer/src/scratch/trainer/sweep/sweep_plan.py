"""What a sweep is to train, written down in `sweep.json`, so that it can be taken up again."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..cli import parse
from ..commands import SweepSettings
from ..config import TrainSettings
from ..fields import Settings
from ..watching.display import say
from .combinations import Combination, check_common, combine

_FORMAT, _VERSION = "scratch-sweep", 1
# Where settings come from, and where the result goes: neither is part of what is computed.
_NO_SETTING = frozenset({"out", "resume", "resume_step", "config", "preset"})


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of a sweep.

    Attributes:
        name: of its directory.
        values: the settings that make it differ, by their names in TOML, as they were written.
        arguments: all flags of `trainer train` but `--out` and `--resume`.
        settings: all settings, by their names in TOML.
    """

    name: str
    values: dict[str, str]
    arguments: list[str]
    settings: dict[str, Any]


def plan_sweep(settings: SweepSettings) -> list[Training]:
    """Return what is to be trained: what the sweep has already, and what it is asked for now.

    Raises:
        ValueError: if settings are wrong, two trainings are the same, or the directory holds a
            sweep with other settings for all.
        SystemExit: if `trainer train` does not understand the flags; it has told why.
    """
    path = settings.out / "sweep.json"
    before = read_plan(path) if path.exists() else []
    asked = bool(settings.vary or settings.case or settings.train)
    if before and not asked:
        return before
    combinations = combine(settings.vary, settings.case)
    check_common(settings.train, combinations)
    new = [_training(combination, settings) for combination in combinations]
    _check_different(new)
    if before:
        _check_same_base(path, before, new)
    known = {training.name for training in before}
    merged = before + [training for training in new if training.name not in known]
    _check_different(merged)
    return merged


def read_plan(path: Path) -> list[Training]:
    """Return the trainings in a `sweep.json`. Raises `ValueError` if it is something else."""
    try:
        plan: Any = json.loads(path.read_bytes())
        if (plan["format"], plan["version"]) != (_FORMAT, _VERSION):
            raise ValueError(f"it is version {plan['version']} of {plan['format']}")
        return [Training(**training) for training in plan["trainings"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} must be the plan of a sweep, version {_VERSION}: {error}"
        ) from None


def write_plan(path: Path, trainings: Sequence[Training]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = {"format": _FORMAT, "version": _VERSION, "trainings": [asdict(t) for t in trainings]}
    unfinished = path.with_name(f".{path.name}.tmp")  # atomic_write would import torch
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(json.dumps(plan, indent=2))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def train_command(training: Training, out: Path) -> list[str]:
    """Return the command line, after `trainer`, that does this training in a directory."""
    return ["train", *training.arguments, "--out", str(out)]


def _training(combination: Combination, settings: SweepSettings) -> Training:
    arguments = [*settings.train, *combination.flags()]
    try:
        parsed = parse(["train", *arguments, "--out", str(settings.out / combination.name)])
    except SystemExit as error:
        if error.code:
            say(f"trainer: train does not understand: {shlex.join(arguments)}")
        raise
    assert isinstance(parsed, TrainSettings)
    lengths = (parsed.steps, parsed.train_tokens, parsed.train_seconds)
    if sum(length is not None for length in lengths) != 1:
        raise ValueError(
            f"{combination.name}: the flags after `--` must have one of --steps, --train-tokens "
            f"and --train-seconds, got {shlex.join(arguments)}"
        )
    if not (parsed.data / "manifest.json").is_file():
        raise ValueError(
            f"{parsed.data} must hold prepared data, got no manifest.json in it; "
            f"make it with: trainer prepare FILE... --out {parsed.data}"
        )
    return Training(
        name=combination.name,
        values=dict(combination.values),
        arguments=arguments,
        settings=_flat(parsed),
    )


def _flat(settings: Settings) -> dict[str, Any]:
    """Return all settings by their names in TOML, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in settings.model_dump(mode="json", exclude=set(_NO_SETTING)).items():
        if isinstance(value, dict):
            table = cast("dict[str, Any]", value)
            flat |= {f"{key}.{name}": inner for name, inner in table.items()}
        else:
            flat[key] = value
    return flat


def _check_different(trainings: Sequence[Training]) -> None:
    for place, training in enumerate(trainings):
        for other in trainings[:place]:
            if training.settings == other.settings:
                raise ValueError(f"{other.name} and {training.name} are the same training")


def _check_same_base(path: Path, before: Sequence[Training], new: Sequence[Training]) -> None:
    """Check that what all trainings share is still the same.

    That is what none of them varies, and what all of them agree in: a preset that varies, say,
    changes many settings at once.
    """
    varied = {setting for training in (*before, *new) for setting in training.values}
    old_base, new_base = _common(before), _common(new)
    differences = [
        f"{setting} was {old_base[setting]}, is {new_base[setting]}"
        for setting in old_base.keys() & new_base.keys() - varied
        if old_base[setting] != new_base[setting]
    ]
    if differences:
        raise ValueError(
            f"{path.parent} holds a sweep with other settings: {'; '.join(sorted(differences))}; "
            "combinations may be added to it, what they share may not change; "
            "choose another --out"
        )


def _common(trainings: Sequence[Training]) -> Mapping[str, Any]:
    first, *others = trainings
    return {
        setting: value
        for setting, value in first.settings.items()
        if all(setting in o.settings and o.settings[setting] == value for o in others)
    }
