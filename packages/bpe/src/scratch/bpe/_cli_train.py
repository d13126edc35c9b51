"""`bpe train`: learn a vocabulary from text files."""

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from ._cli_arguments import (
    Command,
    UsageError,
    add_files,
    check_can_write,
    pattern,
    say,
    speed,
    whole_number,
)
from ._cli_inputs import STDIN, input_names, read_input
from ._progress import ProgressLine
from ._read import Errors
from ._stream import safe_blocks
from ._train import train_bpe, train_bpe_from_iterator

_EXAMPLES = """\
bpe train corpus.txt -o tok.json --vocab-size 4096
cat corpus.txt | bpe train -o tok.json --min-frequency 2
bpe train corpus.txt more.txt.gz -o tok.json --special-token "<|endoftext|>" --pattern cl100k"""


def _add_arguments(parser: ArgumentParser) -> None:
    add_files(parser)
    parser.add_argument("-o", "--out", metavar="FILE", required=True, help="where to write it")
    parser.add_argument(
        "--vocab-size",
        metavar="N",
        type=int,
        default=32_000,
        help="the most tokens to have, bytes and special tokens included (default: 32000)",
    )
    parser.add_argument(
        "--special-token",
        metavar="TOKEN",
        dest="special_tokens",
        action="append",
        default=[],
        help="text that is one token and parts documents; may be given again",
    )
    parser.add_argument(
        "--pattern",
        type=pattern,
        default="gpt2",
        help="what words are: gpt2, cl100k, o200k or a regular expression (default: gpt2)",
    )
    parser.add_argument(
        "--min-frequency",
        metavar="N",
        type=whole_number,
        default=1,
        help="make no token of a pair that is rarer (default: 1)",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=whole_number,
        help="processes that count the words of files (default: one, if much is to do one a core)",
    )


def _run(settings: Namespace) -> None:
    names: list[str] = input_names(settings.files)
    out = Path(settings.out)
    check_can_write(out)
    specials: list[str] = settings.special_tokens
    start_time = time.perf_counter()
    with ProgressLine() as progress:
        if STDIN in names:
            if settings.workers is not None:
                raise UsageError("--workers is for files; stdin is counted by one process")
            vocabulary = train_bpe_from_iterator(
                _blocks(names, settings.pattern, specials, settings.errors),
                vocab_size=settings.vocab_size,
                special_tokens=specials,
                pattern=settings.pattern,
                min_frequency=settings.min_frequency,
                progress=progress,
            )
        else:
            vocabulary = train_bpe(
                names,
                vocab_size=settings.vocab_size,
                special_tokens=specials,
                pattern=settings.pattern,
                min_frequency=settings.min_frequency,
                workers=settings.workers,
                errors=settings.errors,
                progress=progress,
            )
    vocabulary.save(out)
    num_tokens, seconds = len(vocabulary.tokens), time.perf_counter() - start_time
    fewer = "" if num_tokens == settings.vocab_size else " (the text has pairs for no more)"
    say(f"{out}: {num_tokens:,} tokens{fewer}, {speed(progress.done('count'), seconds)}")


def _blocks(
    names: Sequence[str], pattern: str, specials: Sequence[str], errors: Errors
) -> Iterator[str]:
    """Yield all text, in blocks that no word reaches across."""
    for name in names:
        chunks = (block.decode() for block in read_input(name, errors=errors))
        yield from safe_blocks(chunks, pattern=pattern, special_tokens=tuple(specials))


TRAIN = Command("train", "Learn a vocabulary from text.", _EXAMPLES, _add_arguments, _run)
