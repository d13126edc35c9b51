"""The command `trainer`. Torch is imported by the command that needs it, not by `--help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union, cast

import tyro

from .config import (
    EvaluateSettings,
    GenerateSettings,
    PrepareSettings,
    QuickstartSettings,
    Settings,
    TrainSettings,
    load_toml,
)
from .process import keep_freed_memory, let_waiting_threads_sleep

_COMMANDS: dict[str, type[Settings]] = {
    "quickstart": QuickstartSettings,
    "prepare": PrepareSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "generate": GenerateSettings,
}

_GOING_ON = {
    "quickstart": "; the same command goes on",
    "train": "; the same command goes on with --resume",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for an error that is told in a line, 130 for Ctrl-C.

    A command line that cannot be understood exits with 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    let_waiting_threads_sleep()
    keep_freed_memory()
    try:
        _run(parse(arguments))
    except KeyboardInterrupt:
        hint = _GOING_ON.get("".join(arguments[:1]), "")
        print(f"\ntrainer: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stdout = None  # nobody reads on, as under `| head`: there is nobody to tell
        return 1
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str]) -> Settings:
    """Return the settings that a command line asks for, or tell what is wrong with it and exit."""
    name = arguments[0] if arguments else ""
    if name in _COMMANDS:
        kind = _COMMANDS[name]
        default = _train_defaults(arguments[1:]) if kind is TrainSettings else None
        settings = tyro.cli(
            kind,
            prog=f"trainer {name}",
            description=kind.__doc__,
            args=arguments[1:],
            default=default,
        )
    else:
        overview = tuple(
            Annotated[kind, tyro.conf.subcommand(name, description=_summary(kind))]
            for name, kind in _COMMANDS.items()
        )
        settings = tyro.cli(
            cast("type[Settings]", Union[overview]),  # noqa: UP007
            prog="trainer",
            description="From raw text to a trained, evaluated Transformer language model.",
            args=arguments,
        )
    assert settings is not None
    return settings


def _summary(kind: type[Settings]) -> str:
    return (kind.__doc__ or "").split("\n")[0]


def _train_defaults(arguments: list[str]) -> Any:
    """Return what the flags of `train` override: the file that `--config` names, or defaults."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    path: Path | None = finder.parse_known_args(arguments)[0].config
    if path is None:
        return None
    nowhere = Path("\0")  # no file can have this name
    values = load_toml(path, TrainSettings, placeholders={"data": nowhere, "out": nowhere})
    if flags := values.model_fields_set & {"config", "resume"}:
        raise ValueError(f"{path}: {', '.join(sorted(flags))} must be given as a flag")
    missing = {name: tyro.MISSING for name in ("data", "out") if getattr(values, name) == nowhere}
    return values.model_copy(update={**missing, "config": path})


def _run(settings: Settings) -> None:
    match settings:
        case QuickstartSettings():
            from .quickstart import quickstart

            quickstart(settings)
        case PrepareSettings():
            from .prepare import prepare

            prepare(settings)
        case TrainSettings():
            from .train import train

            train(settings)
        case EvaluateSettings():
            from .score import print_score

            print_score(settings)
        case GenerateSettings():
            from .sample import print_sample

            print_sample(settings)
        case _:
            raise AssertionError(settings)
