"""Settings by name, for the experiments that people repeat: files in `presets/`.

A preset holds settings of `trainer train`; flags and files of settings override it. Its first
comment says what it is for.
"""

import difflib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from .commands import PresetsSettings
from .config import TrainSettings
from .toml import parse_toml


def preset_names() -> list[str]:
    return sorted(_files())


def read_preset(name: str) -> dict[str, Any]:
    """Return the settings of a preset, as its file has them.

    Raises:
        ValueError: if there is no such preset, naming those there are.
    """
    return parse_toml(_text(name), f"preset {name}", TrainSettings)


def print_presets(settings: PresetsSettings) -> None:
    if settings.name:
        print(_text(settings.name), end="")
        return
    width = max(map(len, preset_names()))
    for name in preset_names():
        print(f"{name:{width}}  {_text(name).splitlines()[0].removeprefix('# ')}")


def _files() -> dict[str, Traversable]:
    folder = files("scratch.trainer") / "presets"
    found = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    return {file.name.removesuffix(".toml"): file for file in found}


def _text(name: str) -> str:
    known = _files()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
        raise ValueError(f"unknown preset {name}; {hint}")
    return known[name].read_text(encoding="utf-8")
