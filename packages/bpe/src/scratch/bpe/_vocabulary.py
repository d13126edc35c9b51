"""The vocabulary: everything that training learned, and nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, cast

from ._files import write_atomically
from ._patterns import GPT2, resolve_pattern
from ._pretokenize import check_special_tokens
from ._printable import from_printable, to_printable
from ._stream import StrPath

_FORMAT = "scratch-bpe"
_PLAIN, _WITH_WHOLE_WORDS = 1, 2  # versions of the file


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a byte-level BPE, how they come about, and where words end.

    Attributes:
        tokens: the bytes of each id; all 256 single bytes are among them.
        merges: pairs of tokens in order of creation; each product is a token too.
        special_tokens: strings that are tokens as a whole.
        pattern: the regular expression of words; a name in `PATTERNS` is replaced by its own.
        whole_words: tokens that a word spelt exactly so becomes, although applying the merges to
            its bytes would not lead there; a word is looked up here before anything is merged.
            They stand in the order of their ids.

    Raises:
        TypeError: if ids are not whole numbers or tokens not bytes.
        ValueError: if an id is negative, a token is empty, or a single byte, a part or the product
            of a merge, a special token or a whole word is missing; if a whole word is a single
            byte, a special token, or given twice.
    """

    tokens: Mapping[int, bytes]
    merges: tuple[tuple[bytes, bytes], ...]
    special_tokens: tuple[str, ...] = ()
    pattern: str = GPT2
    whole_words: tuple[bytes, ...] = ()

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
        whole_words = _check_whole_words(self.whole_words, known, self.special_tokens)
        object.__setattr__(self, "tokens", dict(sorted(self.tokens.items())))
        object.__setattr__(self, "merges", tuple(self.merges))
        object.__setattr__(self, "special_tokens", tuple(self.special_tokens))
        object.__setattr__(self, "pattern", resolve_pattern(self.pattern))
        in_order = dict.fromkeys(token for token in self.tokens.values() if token in whole_words)
        object.__setattr__(self, "whole_words", tuple(in_order))

    def save(self, path: StrPath) -> None:
        """Write one JSON file: versioned, readable, the pattern included; never half a file."""
        write_atomically(path, self.to_json())

    def to_json(self) -> bytes:
        """Return what `save` writes."""
        content: dict[str, object] = {
            "format": _FORMAT,
            "version": _WITH_WHOLE_WORDS if self.whole_words else _PLAIN,
            "pattern": self.pattern,
            "special_tokens": list(self.special_tokens),
            "tokens": {str(id_): to_printable(token) for id_, token in self.tokens.items()},
            "merges": [" ".join(map(to_printable, merge)) for merge in self.merges],
        }
        if self.whole_words:
            content["whole_words"] = [to_printable(word) for word in self.whole_words]
        return json.dumps(content, ensure_ascii=False, indent=0).encode()

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is not such a file, naming what is wrong with it.
        """
        content = json_object(Path(path).read_bytes(), fspath(path))
        if content.get("format") != _FORMAT:
            raise ValueError(
                f"{fspath(path)} must be a {_FORMAT} vocabulary, got format "
                f"{content.get('format')!r}; files of GPT-2 load with Tokenizer.from_files"
            )
        version = content.get("version")
        if version not in (_PLAIN, _WITH_WHOLE_WORDS):
            raise ValueError(
                f"{fspath(path)} must have version {_PLAIN} or {_WITH_WHOLE_WORDS}, "
                f"got {version!r}; a newer scratch-bpe may read it"
            )
        try:
            special_tokens = content["special_tokens"]
            if not isinstance(special_tokens, list):
                raise TypeError("special_tokens must be a list")
            whole_words: Any = content["whole_words"] if version == _WITH_WHOLE_WORDS else ()
            # Tokens recur in the merges: each is spelt out, and held, once.
            spelt = {text: from_printable(text) for text in content["tokens"].values()}
            return cls(
                tokens={int(token_id): spelt[text] for token_id, text in content["tokens"].items()},
                merges=tuple(split_merge(line, spelt) for line in content["merges"]),
                special_tokens=tuple(cast("list[str]", special_tokens)),
                pattern=content["pattern"],
                whole_words=tuple(from_printable(word) for word in whole_words),
            )
        except KeyError as error:
            raise ValueError(f"{fspath(path)} must have the key {error.args[0]!r}") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{fspath(path)} is not a good vocabulary: {error}") from error


def split_merge(
    line: str, spelt: Mapping[str, bytes] = MappingProxyType({})
) -> tuple[bytes, bytes]:
    """Return the two tokens of a line such as `Ġ t`; `spelt` are tokens that are known already."""
    left, space, right = line.partition(" ")
    if not left or not space or not right or " " in right:
        raise ValueError(f"a merge must be two tokens with one space between, got {line!r}")
    return spelt.get(left) or from_printable(left), spelt.get(right) or from_printable(right)


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


def json_object(data: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in the file called `name`, whose content is `data`."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be a JSON file: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} must hold a JSON object, got {type(content).__name__}")
    return cast("dict[str, Any]", content)


def _check_whole_words(
    whole_words: Sequence[Any], known: set[bytes], special_tokens: Sequence[str]
) -> set[bytes]:
    specials = {token.encode() for token in special_tokens}
    seen: set[bytes] = set()
    for word in whole_words:
        if not isinstance(word, bytes):
            raise TypeError(f"whole_words must be bytes, got {word!r}")
        if word not in known:
            raise ValueError(f"tokens must hold every whole word, got no {word!r}")
        if len(word) == 1:
            raise ValueError(f"whole_words must be longer than one byte, got {word!r}")
        if word in specials:
            raise ValueError(f"whole_words must not be special tokens, got {word!r}")
        if word in seen:
            raise ValueError(f"whole_words must be distinct, got {word!r} twice")
        seen.add(word)
    return seen
