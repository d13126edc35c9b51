"""Combinations of settings: what `--vary` and `--case` of a sweep ask for, as flags of `train`."""

import difflib
import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..config import TrainSettings
from ..fields import Settings

_LONGEST_NAME = 120
# The sweep says itself where each run is, and goes on with it.
_OWN = {
    "out": "each run has its directory in --out of the sweep",
    "resume": "a sweep goes on with what is not finished",
    "resume_step": "a sweep goes on with what is not finished",
}


@dataclass(frozen=True)
class Combination:
    """Settings of one training, by their names in TOML, as they were written."""

    values: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """What its directory is called: readable, and different for different values."""
        text = ",".join(f"{setting}={value}" for setting, value in self.values)
        name = re.sub(r"[^\w.,=+-]", "_", text)
        if name != text or len(name) > _LONGEST_NAME:
            name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return name

    def flags(self) -> list[str]:
        return [part for setting, value in self.values for part in _flags(setting, value)]


def combine(vary: Sequence[str], case: Sequence[str]) -> list[Combination]:
    """Return every case with every combination of what varies, one case after another.

    Raises:
        ValueError: if there is nothing to combine, or a flag is unknown, given twice, or not for a
            sweep to set.
    """
    if not vary and not case:
        raise ValueError("sweep needs something to compare, such as --vary optimizer.lr=1e-3,3e-3")
    axes = [_axis(text) for text in vary]
    varied = [setting for setting, _ in axes]
    _check_distinct(varied, "--vary")
    cases: list[list[tuple[str, str]]] = []
    for text in case:
        pairs = [_pair(part, f"--case {text!r}") for part in shlex.split(text)]
        _check_distinct([*varied, *(setting for setting, _ in pairs)], f"--case {text!r}")
        if not pairs:
            raise ValueError("--case must be FLAG=VALUE ..., got an empty one")
        cases.append(pairs)
    grid = list(product(*([(setting, value) for value in values] for setting, values in axes)))
    return [Combination((*pairs, *point)) for pairs in cases or [[]] for point in grid]


def check_common(arguments: Sequence[str], combinations: Sequence[Combination]) -> None:
    """Check that the flags for all trainings leave alone what the sweep sets.

    Raises:
        ValueError: naming the flag that is not for them, and why.
    """
    varied = {setting for combination in combinations for setting, _ in combination.values}
    for flag in (argument for argument in arguments if argument.startswith("--")):
        setting = flag.removeprefix("--").split("=")[0].replace("-", "_")
        setting = _aliases().get(setting, setting)
        if setting in _OWN:
            raise ValueError(f"--{setting.replace('_', '-')} is not for `--`: {_OWN[setting]}")
        if {setting, setting.replace(".no_", ".")} & varied:
            raise ValueError(f"{flag} is varied, so it must not be among the flags after `--` too")


def _axis(text: str) -> tuple[str, list[str]]:
    setting, joined = _pair(text, f"--vary {text}")
    values = [value.strip() for value in joined.split(",")]
    if "" in values:
        raise ValueError(f"--vary must be FLAG=VALUE,VALUE,..., got {text!r}")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"--vary {text} has {value} twice")
    return setting, values


def _pair(text: str, where: str) -> tuple[str, str]:
    flag, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{where} must have the form FLAG=VALUE, got {text!r}")
    setting = flag.strip().removeprefix("--").replace("-", "_")
    setting = _aliases().get(setting, setting)
    if setting in _OWN:
        raise ValueError(f"{where}: {setting} is not for a sweep to vary: {_OWN[setting]}")
    known = dict(_settings(TrainSettings))
    if setting not in known:
        by_last_part = {name.split(".")[-1]: name for name in known}
        parts = difflib.get_close_matches(setting.split(".")[-1], by_last_part, 1)
        near = difflib.get_close_matches(setting, known, 1) or [by_last_part[p] for p in parts]
        hint = f"; did you mean {near[0]}?" if near else "; `trainer train --help` shows all flags"
        raise ValueError(f"{where}: unknown flag {flag.strip()}{hint}")
    return setting, value.strip()


def _check_distinct(settings: Sequence[str], where: str) -> None:
    for setting in settings:
        if settings.count(setting) > 1:
            raise ValueError(f"{where}: {setting} must be given once, got it twice")


def _flags(setting: str, value: str) -> list[str]:
    *tables, last = setting.replace("_", "-").split(".")
    flag = "--" + ".".join([*tables, last])
    if dict(_settings(TrainSettings))[setting] is not bool:
        return [f"{flag}={value}"] if value.startswith("-") else [flag, value]
    if value.lower() not in ("true", "false"):
        raise ValueError(f"{setting} must be true or false, got {value!r}")
    return [flag if value.lower() == "true" else "--" + ".".join([*tables, f"no-{last}"])]


def _settings(kind: type[Settings], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the settings by their names in TOML, with their types."""
    for name, field in kind.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            yield from _settings(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, annotation


def _aliases() -> dict[str, str]:
    return {
        alias.removeprefix("--").replace("-", "_"): name
        for name, field in TrainSettings.model_fields.items()
        for marker in field.metadata
        for alias in getattr(marker, "aliases", None) or ()
    }
