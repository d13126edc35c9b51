"""Settings as TOML files: unknown keys are refused, with the nearest known one."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard, cast

import tomli_w
from pydantic import ValidationError

from .fields import S, Settings, must_be


def load_toml(path: Path, kind: type[S], *, placeholders: Mapping[str, Any] | None = None) -> S:
    """Return the settings in a TOML file; what it leaves out keeps its default.

    `placeholders` stand in for settings without a default that the file leaves out.

    Raises:
        ValueError: naming the file and an unknown key with the nearest known one, or a bad value.
    """
    values = read_toml(path, kind)
    try:
        return kind.model_validate({**(placeholders or {}), **values})
    except ValidationError as error:
        raise ValueError(f"{path}: {tell_invalid(error, kind)}") from None


def read_toml(path: Path, kind: type[Settings]) -> dict[str, Any]:
    """Return the values in a TOML file of settings, as they are written there.

    Raises:
        ValueError: if it is no TOML file, or has a key that is none of `kind`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a TOML file: {error}") from None
    return parse_toml(text, str(path), kind)


def parse_toml(text: str, name: str, kind: type[Settings]) -> dict[str, Any]:
    """Return the values in a text of settings; `name` is what errors call it."""
    try:
        values = tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} must be a TOML file: {error}") from None
    for key, known in _unknown_keys(values, kind):
        near = difflib.get_close_matches(key.split(".")[-1], [k.split(".")[-1] for k in known], 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
        raise ValueError(f"{name}: unknown key {key}{hint}")
    return values


def tell_invalid(error: ValidationError, kind: type[Settings]) -> str:
    """Return the first of what is wrong, in a line: the setting, the rule and what came."""
    mistakes = error.errors()
    first = mistakes[0]
    key = _key(first["loc"], kind)
    if first["type"] == "missing":
        return f"{key} must be given"
    of_it = [mistake for mistake in mistakes if _key(mistake["loc"], kind) == key]
    rules = dict.fromkeys(map(must_be, of_it))
    return f"{key} must be {' or '.join(rules)}, got {first['input']!r}"


def _key(place: tuple[int | str, ...], kind: type[Settings]) -> str:
    """Return the name of a setting; a place goes on with which element, and of what type."""
    names: list[str] = []
    for part in place:
        field = kind.model_fields.get(str(part))
        if field is None:
            break
        names.append(str(part))
        if not _is_table(field.annotation):
            break
        kind = field.annotation
    return ".".join(names)


def dump_toml(settings: Settings, *, leave_out: frozenset[str] = frozenset()) -> str:
    """Return settings as TOML; those that are None are left out."""
    values = settings.model_dump(mode="json", exclude_none=True, exclude=set(leave_out))
    return tomli_w.dumps(values)


def _unknown_keys(
    values: Mapping[str, Any], kind: type[Settings], prefix: str = ""
) -> Iterator[tuple[str, list[str]]]:
    for key, value in values.items():
        field = kind.model_fields.get(key)
        if field is None:
            yield prefix + key, [prefix + name for name in kind.model_fields]
        elif isinstance(value, dict):
            inner = field.annotation
            if _is_table(inner):
                yield from _unknown_keys(cast("dict[str, Any]", value), inner, f"{prefix}{key}.")


def _is_table(annotation: Any) -> TypeGuard[type[Settings]]:
    return isinstance(annotation, type) and issubclass(annotation, Settings)
