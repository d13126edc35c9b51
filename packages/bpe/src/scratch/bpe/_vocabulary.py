"""The vocabulary: everything that training learned, and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any, Self, cast

from ._files import write_atomically
from ._patterns import GPT2, resolve_pattern
from ._pretokenize import check_special_tokens
from ._printable import from_printable, to_printable
from ._stream import StrPath

_FORMAT, _VERSION = "scratch-bpe", 1


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a byte-level BPE, how they come about, and where words end.

    Attributes:
        tokens: the bytes of each id; all 256 single bytes are among them.
        merges: pairs of tokens in order of creation; each product is a token too.
        special_tokens: strings that are tokens as a whole.
        pattern: the regular expression of words; a name in `PATTERNS` is replaced by its own.

    Raises:
        TypeError: if ids are not whole numbers or tokens not bytes.
        ValueError: if an id is negative, a token is empty, or a single byte, a part or the product
            of a merge, or a special token is missing.
    """

    tokens: Mapping[int, bytes]
    merges: tuple[tuple[bytes, bytes], ...]
    special_tokens: tuple[str, ...] = ()
    pattern: str = GPT2

    def __post_init__(self) -> None:
        check_tokens(self.tokens)
        known = set(self.tokens.values())
        for byte in range(256):
            if bytes([byte]) not in known:
                raise ValueError(f"tokens must hold all 256 single bytes, got none for {byte:#04x}")
        for number, merge in enumerate(self.merges):
            if not isinstance(merge, tuple) or len(merge) != 2:  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison]
                raise TypeError(f"merges must be pairs of tokens, got {merge!r}")
            left, right = merge
            for token in (left, right, left + right):
                if token not in known:
                    raise ValueError(
                        "tokens must hold the parts and the product of every merge, "
                        f"got no {token!r} for merge {number}, {left!r} + {right!r}"
                    )
        for token in check_special_tokens(self.special_tokens):
            if token.encode() not in known:
                raise ValueError(f"tokens must hold every special token, got no {token!r}")
        object.__setattr__(self, "tokens", dict(sorted(self.tokens.items())))
        object.__setattr__(self, "merges", tuple(self.merges))
        object.__setattr__(self, "special_tokens", tuple(self.special_tokens))
        object.__setattr__(self, "pattern", resolve_pattern(self.pattern))

    def save(self, path: StrPath) -> None:
        """Write one JSON file: versioned, readable, the pattern included; never half a file."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "pattern": self.pattern,
            "special_tokens": list(self.special_tokens),
            "tokens": {str(id_): to_printable(token) for id_, token in self.tokens.items()},
            "merges": [" ".join(map(to_printable, merge)) for merge in self.merges],
        }
        write_atomically(path, json.dumps(content, ensure_ascii=False, indent=0).encode())

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is not such a file, naming what is wrong with it.
        """
        content = _read_json_object(path)
        if content.get("format") != _FORMAT:
            raise ValueError(
                f"{fspath(path)} must be a {_FORMAT} vocabulary, got format "
                f"{content.get('format')!r}; files of GPT-2 load with Tokenizer.from_files"
            )
        if content.get("version") != _VERSION:
            raise ValueError(
                f"{fspath(path)} must have version {_VERSION}, got {content.get('version')!r}; "
                "a newer scratch-bpe may read it"
            )
        try:
            special_tokens = content["special_tokens"]
            if not isinstance(special_tokens, list):
                raise TypeError("special_tokens must be a list")
            return cls(
                tokens={int(id_): from_printable(t) for id_, t in content["tokens"].items()},
                merges=tuple(split_merge(line) for line in content["merges"]),
                special_tokens=tuple(cast("list[str]", special_tokens)),
                pattern=content["pattern"],
            )
        except KeyError as error:
            raise ValueError(f"{fspath(path)} must have the key {error.args[0]!r}") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{fspath(path)} is not a good vocabulary: {error}") from error


def split_merge(line: str) -> tuple[bytes, bytes]:
    """Return the two tokens of a line such as `Ġ t`."""
    parts = line.split(" ")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"a merge must be two tokens with one space between, got {line!r}")
    return from_printable(parts[0]), from_printable(parts[1])


def read_gpt2_files(
    vocab_path: StrPath, merges_path: StrPath, special_tokens: tuple[str, ...]
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Read `vocab.json` and `merges.txt` in the format of GPT-2.

    A key of `vocab.json` that is a special token stands for its own UTF-8 bytes, unless it is the
    one character that spells a byte.

    Raises:
        ValueError: naming the file, and the line or the token, that is not as it must be.
    """
    tokens: dict[int, bytes] = {}
    for text, token_id in _read_json_object(vocab_path).items():
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise ValueError(
                f"{fspath(vocab_path)} must map tokens to ids, got {text!r}: {token_id!r}"
            )
        if token_id in tokens:
            raise ValueError(f"{fspath(vocab_path)} must give each id once, got {token_id} twice")
        try:
            special = text in special_tokens and len(text) > 1
            tokens[token_id] = text.encode() if special else from_printable(text)
        except ValueError as error:
            raise ValueError(
                f"{fspath(vocab_path)}: {error}; name it in special_tokens if it is one"
            ) from None
    merges: list[tuple[bytes, bytes]] = []
    try:
        text = Path(merges_path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{fspath(merges_path)} must be UTF-8: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        try:
            merges.append(split_merge(line))
        except ValueError as error:
            raise ValueError(f"{fspath(merges_path)}, line {number}: {error}") from None
    return tokens, merges


def check_tokens(tokens: Mapping[Any, Any]) -> None:
    """Refuse ids that are no whole numbers from 0 on, and tokens that are no bytes, or empty."""
    for token_id, token in tokens.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise TypeError(f"ids must be whole numbers, got {token_id!r}")
        if not isinstance(token, bytes):
            raise TypeError(f"tokens must be bytes, got {token!r} for id {token_id}")
        if token_id < 0:
            raise ValueError(f"ids must not be negative, got {token_id}")
        if not token:
            raise ValueError(f"tokens must not be empty, got b'' for id {token_id}")


def _read_json_object(path: StrPath) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{fspath(path)} must be a JSON file: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{fspath(path)} must hold a JSON object, got {type(content).__name__}")
    return cast("dict[str, Any]", content)
