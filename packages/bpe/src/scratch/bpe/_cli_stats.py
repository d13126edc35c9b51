"""`bpe stats`: how well a tokenizer fits text."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._cli_arguments import Command, add_files, write_result
from ._cli_inputs import input_names, read_inputs
from ._cli_load import add_tokenizer, load_tokenizer
from ._printable import to_printable
from ._progress import ProgressLine
from ._read import Errors
from ._tokenizer import Tokenizer

_EXAMPLES = """\
bpe stats corpus.txt more.txt.gz -t tok.json
bpe stats corpus.txt -t tok.json --json"""

_LONGEST = 10
_SHOWN_CHARS = 48


@dataclass(frozen=True)
class _Fit:
    """How many bytes became how many tokens."""

    file: str
    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float | None:
        return self.bytes / self.tokens if self.tokens else None

    def as_json(self) -> dict[str, object]:
        return {**vars(self), "bytes_per_token": self.bytes_per_token}

    def as_row(self) -> list[str]:
        fit = self.bytes_per_token
        return [f"{self.bytes:,}", f"{self.tokens:,}", "-" if fit is None else f"{fit:.3f}"]


def _add_arguments(parser: ArgumentParser) -> None:
    add_files(parser)
    add_tokenizer(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _run(settings: Namespace) -> None:
    names = input_names(settings.files)
    tokenizer = load_tokenizer(settings)
    fits, times_used = _measure(tokenizer, names, settings.errors)
    total = _Fit("total", sum(fit.bytes for fit in fits), sum(fit.tokens for fit in fits))
    num_tokens, num_used = len(times_used), int(np.count_nonzero(times_used))
    longest = _longest_tokens(tokenizer, times_used)
    if settings.json:
        content = {
            "files": [fit.as_json() for fit in fits],
            "total": {name: value for name, value in total.as_json().items() if name != "file"},
            "vocabulary": {
                "tokens": num_tokens,
                "used": num_used,
                "never_used": num_tokens - num_used,
                "share_used": num_used / num_tokens,
            },
            "longest_tokens": longest,
        }
        write_result(json.dumps(content, indent=1))
        return
    rows = [[fit.file, *fit.as_row()] for fit in ([*fits, total] if len(fits) > 1 else fits)]
    write_result("\n".join(_table(["file", "bytes", "tokens", "bytes/token"], rows)))
    write_result(
        f"\nvocabulary: {num_tokens:,} tokens, {num_used:,} used ({num_used / num_tokens:.1%}), "
        f"{num_tokens - num_used:,} never\n\nlongest tokens, special ones aside:"
    )
    rows = [
        [_shortened(str(row["token"])), *(f"{row[key]:,}" for key in ("id", "bytes", "times_used"))]
        for row in longest
    ]
    write_result("\n".join(_table(["token", "id", "bytes", "times used"], rows)))


def _measure(
    tokenizer: Tokenizer, names: Sequence[str], errors: Errors
) -> tuple[list[_Fit], NDArray[np.int64]]:
    """Return the fit of each input, and how often each token is used, in the order of the ids."""
    ids = np.fromiter(tokenizer.vocabulary.tokens, np.int64)
    has_gaps = len(ids) < tokenizer.vocab_size
    times_used = np.zeros(len(ids), np.int64)
    fits: list[_Fit] = []
    with ProgressLine() as progress:
        for name, blocks in read_inputs(names, errors=errors, progress=progress):
            bytes_before, tokens_before = progress.done("encode"), int(times_used.sum())
            for found in tokenizer.encode_blocks(blocks):
                positions = np.searchsorted(ids, found) if has_gaps else found
                times_used += np.bincount(positions, minlength=len(ids))
            num_bytes = progress.done("encode") - bytes_before
            fits.append(_Fit(name, num_bytes, int(times_used.sum()) - tokens_before))
    return fits, times_used


def _longest_tokens(
    tokenizer: Tokenizer, times_used: NDArray[np.int64]
) -> list[dict[str, int | str]]:
    specials = set(tokenizer.special_tokens.values())
    learnt = [
        (token, token_id, int(times))
        for (token_id, token), times in zip(
            tokenizer.vocabulary.tokens.items(), times_used, strict=True
        )
        if token_id not in specials
    ]
    learnt.sort(key=lambda each: (-len(each[0]), each[1]))
    return [
        {"id": token_id, "bytes": len(token), "times_used": times, "token": to_printable(token)}
        for token, token_id, times in learnt[:_LONGEST]
    ]


def _shortened(token: str) -> str:
    return token if len(token) <= _SHOWN_CHARS else f"{token[: _SHOWN_CHARS - 1]}\u2026"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines of columns, the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for first, *numbers in (header, *rows):
        cells = (text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells])


STATS = Command("stats", "Show how well a tokenizer fits text.", _EXAMPLES, _add_arguments, _run)
