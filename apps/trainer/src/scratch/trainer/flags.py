"""Settings as flags, each checked where it is given, so that what is wrong names its flag.

What `tyro` makes of a number with limits, or of a value that may be left out, is understood by
those who know pydantic. Here it is told as everywhere: the rule, and what came.
"""

from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import tyro
from pydantic import TypeAdapter, ValidationError
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from .fields import Settings, must_be

_NONE = "None"
_READERS: dict[object, tuple[type, str, str]] = {
    int: (int, "INT", "a whole number"),
    float: (float, "FLOAT", "a number"),
    str: (str, "STR", "a text"),
    Path: (Path, "PATH", "a path"),
}


def registry() -> ConstructorRegistry:
    """Return the rules by which `tyro` makes flags of settings."""
    rules = ConstructorRegistry()
    rules.struct_rule(_fields)
    return rules


def _fields(info: StructTypeInfo) -> StructConstructorSpec | None:
    kind: Any = cast(Any, info).type
    if not (isinstance(kind, type) and issubclass(kind, Settings)):
        return None
    hints = get_type_hints(kind, include_extras=True)
    has_default = isinstance(info.default, kind)
    fields: list[StructFieldSpec] = []
    for name, field in kind.model_fields.items():
        default = tyro.MISSING if field.is_required() else field.default
        spec = _reader(hints[name])
        fields.append(
            StructFieldSpec(
                name=name,
                type=hints[name] if spec is None else cast(Any, Annotated[hints[name], spec]),
                default=getattr(info.default, name) if has_default else default,
                helptext=field.description,
            )
        )
    return StructConstructorSpec(instantiate=kind, fields=tuple(fields))


def _reader(hint: Any) -> PrimitiveConstructorSpec[Any] | None:
    """Return how a value is read, if it is a number, one of several kinds, or may be None."""
    kinds = _kinds(hint)
    values = [kind for kind in kinds if kind is not type(None)]
    if kinds == [str] or kinds == [Path] or not all(map(_is_read, values)):
        return None
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return None

    def read(texts: list[str]) -> Any:
        (text,) = texts
        if text == _NONE and type(None) in kinds:
            return None
        value = _value(text, values)
        try:
            return TypeAdapter[Any](hint).validate_python(value)
        except ValidationError as error:
            rules = " or ".join(must_be(mistake) for mistake in error.errors())
            raise ValueError(f"must be {rules}, got {text}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(_metavar(kind) for kind in values),
        instance_from_str=read,
        is_instance=lambda _: True,
        str_from_instance=lambda value: [str(value)],
    )


def _kinds(hint: Any) -> list[Any]:
    """Return the types of a union, or the only one, without what is noted beside them."""
    if get_origin(hint) is Annotated:
        return _kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [kind for member in get_args(hint) for kind in _kinds(member)]
    return [hint]


def _is_read(kind: Any) -> bool:
    return kind in _READERS or get_origin(kind) is Literal


def _value(text: str, kinds: Iterable[Any]) -> Any:
    """Return what a text means as the first of the kinds that it can be."""
    for kind in kinds:
        if get_origin(kind) is Literal:
            if text in get_args(kind):
                return text
            continue
        try:
            return _READERS[kind][0](text)
        except ValueError:
            continue
    rules = " or ".join(_rule(kind) for kind in kinds)
    raise ValueError(f"must be {rules}, got {text}")


def _rule(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return _READERS[kind][2]


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    return _READERS[kind][1]
