"""The command `trainer`. What a command needs is imported by it, nothing by the overview."""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from . import __version__
from .process import keep_freed_memory, let_waiting_threads_sleep, speaks, tell_torchrun

if TYPE_CHECKING:
    from .fields import Settings


class Command(NamedTuple):
    """What a command is for, the settings that its flags are made of, and who does the work.

    The last two as `module:name` of this package, so that the overview imports none of them.
    """

    summary: str
    settings: str
    work: str


COMMANDS = {
    "quickstart": Command(
        "Train a small model on Python's own sources, and compare it with gzip and xz.",
        "commands:QuickstartSettings",
        "quickstart:quickstart",
    ),
    "download": Command(
        "Fetch a public data set; what is there already is not fetched again.",
        "commands:DownloadSettings",
        "hub.download:print_download",
    ),
    "prepare": Command(
        "Turn text files into a tokenizer and token files.",
        "commands:PrepareSettings",
        "data.prepare:print_prepared",
    ),
    "plan": Command(
        "Tell what a training takes before it is begun: parameters, FLOPs, memory, time.",
        "commands:PlanSettings",
        "plan.plan:print_plan",
    ),
    "train": Command(
        "Train a model on prepared data.", "config:TrainSettings", "training.train:train"
    ),
    "sweep": Command(
        "Train once for each combination of settings, and compare.",
        "commands:SweepSettings",
        "sweep.sweep:print_sweep",
    ),
    "runs": Command(
        "List the runs in a directory, how far they are and how good.",
        "commands:RunsSettings",
        "runs.listing:print_runs",
    ),
    "report": Command(
        "Write one page that shows and compares runs, readable without a network.",
        "commands:ReportSettings",
        "report.report:write_report",
    ),
    "evaluate": Command(
        "Measure a trained model on held-out text, or on files.",
        "commands:EvaluateSettings",
        "using.score:print_score",
    ),
    "generate": Command(
        "Continue a text.", "commands:GenerateSettings", "using.sample:print_sample"
    ),
    "export": Command(
        "Write a trained model in a form that others load.",
        "commands:ExportSettings",
        "exchange.export:export",
    ),
    "import": Command(
        "Make a run of a model that others wrote: to evaluate, generate, train further.",
        "commands:ImportSettings",
        "exchange.import_:import_",
    ),
    "presets": Command(
        "List the presets of `trainer train`, or show the settings of one.",
        "commands:PresetsSettings",
        "presets:print_presets",
    ),
}

_GOING_ON = {
    "quickstart": "; the same command goes on",
    "prepare": "; the same command goes on",
    "download": "; the same command goes on",
    "sweep": "; the same command goes on",
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
        _run(arguments, parse(arguments))
    except KeyboardInterrupt:
        hint = _GOING_ON.get("".join(arguments[:1]), "")
        print(f"\ntrainer: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stdout = None  # nobody reads on, as under `| head`: there is nobody to tell
        return 1
    except (ValueError, OSError, ArithmeticError, ImportError, MemoryError) as error:
        _tell(error, _told(error))
        return 1
    except RuntimeError as error:  # only torch raises these for want of memory
        from .training.micro_batch import is_out_of_memory

        if not is_out_of_memory(error):
            tell_torchrun(error)
            raise
        _tell(error, _told(MemoryError()))
        return 1
    except Exception as error:
        tell_torchrun(error)
        raise
    return 0


def _tell(error: Exception, message: str) -> None:
    """Print what is wrong; of several processes the main one does, and torchrun tells the rest."""
    if not tell_torchrun(error, message) or speaks():
        print(f"trainer: {message}", file=sys.stderr)


def _told(error: Exception) -> str:
    """Return what went wrong; of a file, its name and what the system says of it, without a number.

    A file that is renamed has two names, and both are told.
    """
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename is not None:
        path = Path(error.filename)
        file = next((place for place in (path, *path.parents) if place.is_file()), path)
        return f"{file}: must be a directory, got a file"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' -> '.join(names)}: {error.strerror}"
    if isinstance(error, MemoryError) and not str(error):
        return "there must be memory for what was asked, got less; ask for less at a time"
    return str(error)


def parse(arguments: list[str]) -> "Settings":
    """Return the settings that a command line asks for, or tell what is wrong with it and exit."""
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        _show_overview(arguments)
    if name != "train" and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(f"torchrun is for trainer train; {name} is for one process, without it")
    import tyro

    from .flags import registry

    kind: type[Settings] = _find(COMMANDS[name].settings)
    given, rest = arguments[1:], list[str]()
    if name == "sweep" and "--" in given:
        place = given.index("--")
        given, rest = given[:place], given[place + 1 :]
    default = _train_defaults(given) if name == "train" else None
    with registry():
        settings = tyro.cli(
            kind,
            prog=f"trainer {name}",
            description=kind.__doc__,
            args=given,
            default=default,
            console_outputs=speaks(),
        )
    assert settings is not None
    if default is not None:
        settings = _with_its_own_length(settings, default)
    return settings.model_copy(update={"train": tuple(rest)}) if rest else settings


def _show_overview(arguments: list[str]) -> NoReturn:
    """Show all commands, or what is wrong with the one that was asked for, and exit.

    By the standard library, which is at it before tyro has looked at the flags of all commands.
    """
    parser = argparse.ArgumentParser(
        prog="trainer",
        description="From raw text to a trained, evaluated Transformer language model.",
        epilog="Begin with: trainer quickstart. All flags, and examples: trainer COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"trainer {__version__}")
    chosen = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        chosen.add_parser(name, help=command.summary)
    if arguments and not arguments[0].startswith("-"):
        near = difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}"
        parser.error(f"unknown command {arguments[0]}; {hint}")
    parser.parse_args(arguments)
    parser.print_help(sys.stderr)
    parser.exit(2)


def _train_defaults(arguments: list[str]) -> Any:
    """Return what the flags of `train` override: a preset, a file of settings, or defaults."""
    import tyro
    from pydantic import ValidationError

    from .config import LENGTHS, TrainSettings
    from .presets import read_preset
    from .toml import load_toml, read_toml, tell_invalid

    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--preset")
    finder.add_argument("--config", type=Path)
    finder.add_argument("--init-from", "--init_from", type=Path)  # tyro knows both
    try:
        found = finder.parse_known_args(arguments)[0]
    except argparse.ArgumentError:
        return None  # a flag without its value: the real parser tells
    values: dict[str, Any] = {}
    if found.preset is not None:
        values = read_preset(found.preset)
    if found.config is not None:
        file = read_toml(found.config, TrainSettings)
        if flags := file.keys() & {"config", "preset", "resume", "resume_step"}:
            raise ValueError(f"{found.config}: {', '.join(sorted(flags))} must be given as a flag")
        if not file.keys().isdisjoint(LENGTHS):
            values = {name: value for name, value in values.items() if name not in LENGTHS}
        values = _merge(values, file)
    if found.init_from is not None:
        shape = load_toml(found.init_from / "config.toml", TrainSettings).model
        values = _merge(values, {"model": shape.model_dump()})
    if not values:
        return None
    nowhere = Path("\0")  # no file can have this name
    try:
        settings = TrainSettings.model_validate({"data": nowhere, "out": nowhere, **values})
    except ValidationError as error:
        raise ValueError(
            f"{found.config or found.preset}: {tell_invalid(error, TrainSettings)}"
        ) from None
    missing = {name: tyro.MISSING for name in ("data", "out") if name not in values}
    return settings.model_copy(update={**missing, "config": found.config, "preset": found.preset})


def _with_its_own_length(settings: "Settings", default: "Settings") -> "Settings":
    """Let a length that is given as a flag take the place of the one in a preset or file."""
    from .config import LENGTHS

    given = [name for name in LENGTHS if getattr(settings, name) != getattr(default, name)]
    return settings.model_copy(update={n: None for n in LENGTHS if given and n not in given})


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return the values of both, tables joined, those of `above` where both have one."""
    tables = {key for key in below.keys() & above.keys() if isinstance(above[key], dict)}
    joined = {key: _merge(below[key], above[key]) for key in tables}
    return below | above | joined


def _run(arguments: list[str], settings: "Settings") -> None:
    _find(COMMANDS[arguments[0]].work)(settings)


def _find(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(f".{module}", __package__), name)
