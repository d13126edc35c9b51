"""Hugging Face's `tokenizer.json`, as far as it says what a `Vocabulary` says.

The format is a pipeline of parts of many kinds. Byte-level BPE with special tokens is one of them;
a file with anything else that changes an id is refused. The pattern must be a named one: of what
another leaves out we keep the bytes, while tokenizers merges them, and patterns of one's own do
not mean the same in its engine of regular expressions. (The named patterns do, but for characters
that are younger than the tables of Unicode there.)
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from os import fspath
from pathlib import Path
from typing import Any

from ._added_tokens import PLAIN_FLAGS, require, special_ids_of
from ._exchange import check_distinct_merges, check_reads_back, check_whole_words, ids_by_token
from ._files import write_atomically
from ._gpt2 import spelt_tokens, tokens_by_id
from ._patterns import GPT2, PATTERNS
from ._printable import from_printable, to_printable
from ._ranks import unreached_tokens
from ._stream import StrPath
from ._vocabulary import Vocabulary, json_object, split_merge

_BYTE_LEVEL: dict[str, object] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
}
_NO_NORMALIZER: dict[str, object] = {"type": "Sequence", "normalizers": []}
_PLAIN_MODEL: dict[str, tuple[object, ...]] = {  # what each setting must be; the first is written
    "type": ("BPE",),
    "dropout": (None, 0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,),
}


def read_huggingface(path: StrPath) -> Vocabulary:
    """Read a `tokenizer.json`.

    Added tokens become special tokens. With `ignore_merges`, the tokens that no merges lead to
    become whole words.

    Raises:
        ValueError: if the file is not a good one, or asks for what a `Vocabulary` cannot tell.
    """
    return _parse(Path(path).read_bytes(), fspath(path))


def write_huggingface(vocabulary: Vocabulary, path: StrPath) -> None:
    """Write a `tokenizer.json`, never half of one.

    Raises:
        ValueError: if the file cannot tell all of the vocabulary, naming what. Nothing is written.
    """
    if vocabulary.whole_words:
        check_whole_words(vocabulary, unreached_tokens(vocabulary))
    check_distinct_merges(vocabulary.merges)
    spelt = spelt_tokens(vocabulary)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": spelt[token], "content": token, "special": True, "normalized": False}
            | PLAIN_FLAGS
            for token in vocabulary.special_tokens
        ],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(vocabulary.pattern),
        "post_processor": None,
        "decoder": _BYTE_LEVEL | {"use_regex": True},
        "model": {key: values[0] for key, values in _PLAIN_MODEL.items()}
        | {
            "fuse_unk": False,
            "ignore_merges": bool(vocabulary.whole_words),
            "vocab": spelt,
            "merges": [list(map(to_printable, merge)) for merge in vocabulary.merges],
        },
    }
    data = json.dumps(content, ensure_ascii=False, indent=1).encode()
    check_reads_back(vocabulary, _parse(data, fspath(path)))
    write_atomically(path, data)


def _parse(data: bytes, name: str) -> Vocabulary:
    content = json_object(data, name)
    try:
        return _vocabulary(content)
    except KeyError as error:
        raise ValueError(f"{name} must have the key {error.args[0]!r}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as a Vocabulary: {error}") from error


def _vocabulary(content: Mapping[str, Any]) -> Vocabulary:
    require("normalizer", content.get("normalizer"), (None, _NO_NORMALIZER), "it changes the text")
    for part in ("truncation", "padding"):
        require(part, content.get(part), (None,), "it changes the ids")
    model = content["model"]
    for key, values in _PLAIN_MODEL.items():
        require(f"model.{key}", model.get(key, values[0]), values, "it changes what is merged")
    match content.get("post_processor"):
        case None | {"type": "ByteLevel"}:
            pass
        case other:
            raise ValueError(f"post_processor must be ByteLevel or none, got {other}: it adds ids")
    match content.get("decoder"):
        case {"type": "ByteLevel"}:
            pass
        case other:
            raise ValueError(f"decoder must be ByteLevel, got {other}: it changes the text")

    special_ids = special_ids_of(content.get("added_tokens", []), model["vocab"])
    tokens = tokens_by_id(
        model["vocab"] | special_ids,
        tuple(special_ids),
        name="model.vocab",
        named_in="added_tokens",
    )
    ids_by_token(tokens)
    merges = tuple(_merge(entry) for entry in model["merges"])
    check_distinct_merges(merges)
    pattern = _pattern(content.get("pre_tokenizer"))
    vocabulary = Vocabulary(tokens, merges, tuple(special_ids), pattern)
    if not model.get("ignore_merges"):
        return vocabulary
    specials = {token.encode() for token in special_ids}
    unreached = [token for token in unreached_tokens(vocabulary) if token not in specials]
    return replace(vocabulary, whole_words=tuple(unreached))


def _pre_tokenizer(pattern: str) -> dict[str, object]:
    if pattern == GPT2:
        return _BYTE_LEVEL | {"use_regex": True}
    _check_named(pattern)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    steps = [split | {"invert": False}, _BYTE_LEVEL | {"use_regex": False}]
    return {"type": "Sequence", "pretokenizers": steps}


def _pattern(pre_tokenizer: Any) -> str:
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [*steps]}:
            pass
        case _:
            steps = [pre_tokenizer]
    match steps:
        case [{"type": "ByteLevel"} as last]:
            pattern = GPT2
        case [
            {"type": "Split", "pattern": {"Regex": pattern}} as split,
            {"type": "ByteLevel"} as last,
        ]:
            require("behavior of Split", split["behavior"], ("Isolated",), "words must be kept")
            require("invert of Split", split["invert"], (False,), "words must be what matches")
            _check_named(pattern)
        case _:
            raise ValueError(
                "pre_tokenizer must be ByteLevel, or a Split by a Regex and then ByteLevel, "
                f"got {pre_tokenizer}"
            )
    require("add_prefix_space", last["add_prefix_space"], (False,), "it changes the text")
    is_alone = len(steps) == 1
    require("use_regex", last.get("use_regex", True), (is_alone,), "words must be cut once")
    return pattern


def _check_named(pattern: str) -> None:
    if pattern not in PATTERNS.values():
        raise ValueError(
            f"pattern must be a named one ({', '.join(PATTERNS)}) in this format, got {pattern!r}: "
            "of others one cannot be sure that tokenizers matches the same and leaves nothing out"
        )


def _merge(entry: object) -> tuple[bytes, bytes]:
    match entry:
        case [str(left), str(right)]:
            return from_printable(left), from_printable(right)
        case str():
            if entry.startswith("#version"):
                raise ValueError(
                    f"a merge must not be a comment, got {entry!r}: tokenizers skips it"
                )
            return split_merge(entry)
        case _:
            raise ValueError(f"a merge must be two tokens, got {entry!r}")
