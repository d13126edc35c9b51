"""The command `bpe`: tokenizers from the shell, to train, apply, measure and exchange."""

import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from textwrap import indent

from . import __version__
from ._cli_arguments import Command, UsageError
from ._cli_decode import DECODE
from ._cli_encode import ENCODE
from ._cli_export import EXPORT
from ._cli_stats import STATS
from ._cli_train import TRAIN

COMMANDS = (TRAIN, ENCODE, DECODE, STATS, EXPORT)

_EXAMPLES = """\
bpe train corpus.txt -o tok.json --vocab-size 4096
echo "Hello, world" | bpe encode -t tok.json | bpe decode -t tok.json
bpe stats corpus.txt -t tok.json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for an error that is told in a line, 130 for Ctrl-C.

    A command line that cannot be understood exits with 2.
    """
    settings = parse(sys.argv[1:] if arguments is None else arguments)
    command: Command = settings.command
    try:
        command.run(settings)
        sys.stdout.flush()
    except UsageError as error:
        settings.parser.error(str(error))
    except KeyboardInterrupt as interrupt:
        after_caret = "\n" if sys.stderr.isatty() else ""
        hint = "".join(f"; {each}" for each in interrupt.args)
        print(f"{after_caret}bpe: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Nobody reads on, as under `| head`. What is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError, MemoryError, BrokenExecutor) as error:
        print(f"bpe: {_explain(error)}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what a command line asks for, or tell what is wrong with it and exit."""
    parser, parsers = build_parsers()
    if not arguments or arguments[0] not in parsers:
        return parser.parse_args(arguments)
    own, rest = parsers[arguments[0]], arguments[1:]
    if "--" in rest:  # which the other method forgets before it looks at what follows
        return own.parse_args(rest)
    return own.parse_intermixed_args(rest)  # FILEs may stand before, between and after flags


def build_parsers() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """Return the parser of `bpe`, and that of each command."""
    parser = _with_examples(
        ArgumentParser("bpe", description="Byte-level BPE tokenizers.", allow_abbrev=False),
        _EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"bpe {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    parsers: dict[str, ArgumentParser] = {}
    for command in COMMANDS:
        own = subparsers.add_parser(
            command.name, help=command.summary, description=command.summary, allow_abbrev=False
        )
        command.add_arguments(_with_examples(own, command.examples))
        own.set_defaults(command=command, parser=own)
        parsers[command.name] = own
    return parser, parsers


def _with_examples(parser: ArgumentParser, examples: str) -> ArgumentParser:
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = f"examples:\n{indent(examples, '  ')}"
    return parser


def _explain(error: Exception) -> str:
    match error:
        case OSError(filename=str() | bytes() as name, strerror=str() as reason):
            return f"{os.fsdecode(name)}: {reason}"
        case MemoryError():
            return "there is not enough memory"
        case _:
            return str(error)
