"""The two files of GPT-2: `vocab.json`, the id of each token, and `merges.txt`, a merge a line.

Tokens are spelt in visible characters, special tokens as they are. The files do not tell which
tokens are special, nor the pattern, which is GPT-2's.
"""

import json
from collections.abc import Mapping, Sequence
from os import fspath
from pathlib import Path
from typing import Any

from ._exchange import check_distinct_merges, check_reads_back, ids_by_token, ordinary_tokens
from ._files import write_atomically
from ._patterns import GPT2
from ._printable import from_printable, to_printable
from ._stream import StrPath
from ._vocabulary import Vocabulary, json_object, split_merge

_HEADER = "#version: 0.2"


def read_gpt2_files(
    vocab_path: StrPath, merges_path: StrPath, special_tokens: tuple[str, ...]
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Read `vocab.json` and `merges.txt` in the format of GPT-2.

    A key of `vocab.json` that is a special token stands for its own UTF-8 bytes, unless it is the
    one character that spells a byte.

    Raises:
        ValueError: naming the file, and the line or the token, that is not as it must be.
    """
    vocab, merges = Path(vocab_path).read_bytes(), Path(merges_path).read_bytes()
    return (
        tokens_by_id(
            json_object(vocab, fspath(vocab_path)), special_tokens, name=fspath(vocab_path)
        ),
        _merges(merges, name=fspath(merges_path)),
    )


def write_gpt2_files(vocabulary: Vocabulary, vocab_path: StrPath, merges_path: StrPath) -> None:
    """Write `vocab.json` and `merges.txt` in the format of GPT-2, each never half a file.

    Special tokens are not marked in them: name them again where the files are read.

    Raises:
        ValueError: if the files cannot tell all of the vocabulary, naming what. Nothing is written.
    """
    if Path(vocab_path).resolve() == Path(merges_path).resolve():
        raise ValueError(
            f"vocab_path and merges_path must be two files, got {fspath(vocab_path)} twice"
        )
    if vocabulary.pattern != GPT2:
        raise ValueError(f"pattern must be GPT2 in this format, got {vocabulary.pattern!r}")
    if vocabulary.whole_words:
        raise ValueError(
            f"whole_words must be empty in this format, got {vocabulary.whole_words[0]!r}"
        )
    check_distinct_merges(vocabulary.merges)
    vocab = json.dumps(spelt_tokens(vocabulary), ensure_ascii=False).encode()
    lines = [" ".join(map(to_printable, merge)) for merge in vocabulary.merges]
    merges = "\n".join([_HEADER, *lines, ""]).encode()

    specials = vocabulary.special_tokens
    tokens = tokens_by_id(json_object(vocab, "vocab"), specials, name="vocab")
    again = Vocabulary(tokens, tuple(_merges(merges, name="merges")), specials)
    check_reads_back(vocabulary, again)
    write_atomically(vocab_path, vocab)
    write_atomically(merges_path, merges)


def spelt_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the id of each token as GPT-2 spells it, special tokens as they are.

    Raises:
        ValueError: if a special token could be taken for other bytes, which it spells.
    """
    ids, ordinary = ids_by_token(vocabulary.tokens), ordinary_tokens(vocabulary)
    spelt = {to_printable(token): token_id for token, token_id in ids.items() if token in ordinary}
    for special in vocabulary.special_tokens:
        check_unmistakable(special)
        token = special.encode()
        if token in ordinary and to_printable(token) != special:
            raise ValueError(
                f"special_tokens must not be tokens of merges too in this format, got {special!r}: "
                f"it would be spelt both so and {to_printable(token)!r}"
            )
        spelt[special] = ids[token]
    return dict(sorted(spelt.items(), key=lambda item: item[1]))


def check_unmistakable(special: str) -> None:
    """Refuse a special token that is also the spelling of other bytes, as `é` is of 0xE9."""
    try:
        spelt = from_printable(special)
    except ValueError:
        return
    if spelt != special.encode():
        raise ValueError(
            f"special_tokens must not spell other bytes in this format, got {special!r}, "
            f"which spells {spelt!r}"
        )


def tokens_by_id(
    vocab: Mapping[str, Any],
    special_tokens: Sequence[str],
    *,
    name: str,
    named_in: str = "special_tokens",
) -> dict[int, bytes]:
    """Return the bytes of each id of `vocab`, as errors call it `name`.

    Tokens that are not spelt in byte characters must be `special_tokens`, which are `named_in`.
    """
    tokens: dict[int, bytes] = {}
    byte_characters = {to_printable(bytes([byte])) for byte in range(256)}
    specials = set(special_tokens) - byte_characters
    for text, token_id in vocab.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise ValueError(f"{name} must map tokens to ids, got {text!r}: {token_id!r}")
        if token_id in tokens:
            raise ValueError(f"{name} must give each id once, got {token_id} twice")
        try:
            tokens[token_id] = text.encode() if text in specials else from_printable(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}; name it in {named_in} if it is one") from None
    return tokens


def _merges(data: bytes, *, name: str) -> list[tuple[bytes, bytes]]:
    merges: list[tuple[bytes, bytes]] = []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be UTF-8: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        try:
            merges.append(split_merge(line))
        except ValueError as error:
            raise ValueError(f"{name}, line {number}: {error}") from None
    return merges
