"""tiktoken's `.tiktoken` files: a token in base64, a space and its rank, a line each.

The rank is the id. Special tokens and the pattern are not in the file; tiktoken takes them in code,
as arguments of `tiktoken.Encoding`. Beware of two habits there: text that the pattern leaves out,
which we keep byte by byte, is dropped, and where one special token begins another, either may be
found. The named patterns leave nothing out.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from os import fspath
from pathlib import Path

from ._exchange import check_reads_back, check_whole_words, ids_by_token, ordinary_tokens
from ._files import write_atomically
from ._pretokenize import check_special_tokens
from ._ranks import merges_from_ranks
from ._stream import StrPath
from ._vocabulary import Vocabulary


def read_tiktoken(path: StrPath, *, pattern: str, special_tokens: Mapping[str, int]) -> Vocabulary:
    """Read a `.tiktoken` file; what it lacks, the pattern and ids of special tokens, is given.

    Raises:
        ValueError: if a line is not as it must be, a token or a rank comes twice, a single byte is
            missing, or a special token or its id is taken.
    """
    return _parse(Path(path).read_bytes(), fspath(path), pattern, special_tokens)


def write_tiktoken(vocabulary: Vocabulary, path: StrPath) -> None:
    """Write a `.tiktoken` file, never half of one. Special tokens and pattern are not in it.

    Raises:
        ValueError: if the ids, taken as ranks, do not lead to the merges and the whole words of
            the vocabulary, naming the first that differs. Nothing is written.
    """
    ids, ordinary = ids_by_token(vocabulary.tokens), ordinary_tokens(vocabulary)
    ranks = {token: rank for token, rank in ids.items() if token in ordinary}
    merges, only_whole = merges_from_ranks(ranks)
    _check_merges(vocabulary.merges, merges)
    check_whole_words(vocabulary, only_whole)
    data = b"".join(b"%s %d\n" % (base64.b64encode(token), ranks[token]) for token in ranks)
    special_ids = {token: ids[token.encode()] for token in vocabulary.special_tokens}
    check_reads_back(vocabulary, _parse(data, fspath(path), vocabulary.pattern, special_ids))
    write_atomically(path, data)


def _parse(data: bytes, name: str, pattern: str, special_tokens: Mapping[str, int]) -> Vocabulary:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        token, rank = _parse_line(line, f"{name}, line {number}")
        if token in ranks:
            raise ValueError(f"{name}, line {number}: tokens must be distinct, got {token!r} again")
        ranks[token] = rank
    tokens = {rank: token for token, rank in ranks.items()}
    for special in check_special_tokens(tuple(special_tokens)):
        token, token_id = special.encode(), special_tokens[special]
        taken = tokens.setdefault(token_id, token)
        if taken != token:
            raise ValueError(
                f"special_tokens must have ids of their own, got {token_id} for {special!r}, "
                f"which is the id of {taken!r}"
            )
        if ranks.get(token, token_id) != token_id:
            raise ValueError(
                f"special_tokens must not be other tokens too, got {special!r} with id {token_id}, "
                f"which has rank {ranks[token]}"
            )
    specials = {special.encode() for special in special_tokens}
    try:
        merges, whole_words = merges_from_ranks(ranks)
        return Vocabulary(
            tokens,
            tuple(merges),
            tuple(special_tokens),
            pattern,
            tuple(word for word in whole_words if word not in specials),
        )
    except ValueError as error:
        raise ValueError(f"{name} is not a good vocabulary: {error}") from error


def _parse_line(line: bytes, where: str) -> tuple[bytes, int]:
    parts = line.split()
    if len(parts) != 2 or not parts[1].isdigit():
        raise ValueError(
            f"{where}: it must be a token in base64, a space and a rank of digits, got {line!r}"
        )
    try:
        return base64.b64decode(parts[0], validate=True), int(parts[1])
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where}: the token must be base64, got {parts[0]!r}: {error}") from None


def _check_merges(
    ours: Sequence[tuple[bytes, bytes]], theirs: Sequence[tuple[bytes, bytes]]
) -> None:
    for number, (our, their) in enumerate(zip_longest(ours, theirs)):
        if our != their:
            raise ValueError(
                "merges must be those that the ids lead to, taken as ranks: "
                f"merge {number} must be {their or 'none'}, got {our or 'none'}"
            )
