"""Files of JSON lines: one document a line, its text in a field of an object."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from scratch.bpe import read_blocks

_COMPRESSED = {".gz", ".zst"}


def is_json_lines(path: Path) -> bool:
    """Tell by the name, whatever the file is compressed with."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1:] == [".jsonl"]


def read_json_lines(path: Path, field: str) -> Iterator[bytes]:
    """Yield the text of each line, in UTF-8; empty lines are left out.

    Args:
        path: the file, plain or compressed.
        field: where the text is; `message.body` is the field `body` of the object at `message`.

    Raises:
        ValueError: if a line is not a JSON object with a text there, naming file and line.
        OSError: if the file cannot be read.
    """
    keys = field.split(".")
    for number, line in enumerate(split_lines(read_blocks(path)), start=1):
        if line and not line.isspace():
            try:
                yield _text_at(keys, line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} must {error}") from None


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of the joined blocks, without their ends."""
    begun: list[bytes] = []
    for block in blocks:
        *ended, rest = block.split(b"\n")
        if ended:
            yield b"".join([*begun, ended[0]])
            yield from ended[1:]
            begun.clear()
        if rest:
            begun.append(rest)
    if begun:
        yield b"".join(begun)


def _text_at(keys: list[str], line: bytes) -> bytes:
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"be JSON, got {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise ValueError(f"be JSON that can be read: {error}") from None
    for depth, key in enumerate(keys):
        place = f"at {'.'.join(keys[:depth])!r}" if depth else "as a whole"
        if not isinstance(value, dict):
            raise ValueError(f"be a JSON object {place}, got {_describe(value)}")
        fields = cast("dict[str, Any]", value)
        if key not in fields:
            known = ", ".join(map(repr, fields)) or "no field"
            raise ValueError(
                f"have its text at {'.'.join(keys)!r}, got {known} {place}; "
                "name the field with --json-field"
            )
        value = fields[key]
    if not isinstance(value, str):
        raise ValueError(f"have a text at {'.'.join(keys)!r}, got {_describe(value)}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"be text that UTF-8 can spell, got an unpaired surrogate at character {error.start}"
        ) from None


def _describe(value: object) -> str:
    kinds = {"dict": "an object", "list": "a list", "str": "a text", "NoneType": "null"}
    return kinds.get(type(value).__name__, repr(value))
