"""What all settings are made of: frozen typed values, refused where they cannot be right."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, cast

import tyro
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails

AtLeastOne = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
UpToOne = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Flag = tyro.conf.FlagCreatePairsOff[bool]
JsonFlag = Annotated[Flag, tyro.conf.arg(name="json")]


class Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True
    )


S = TypeVar("S", bound=Settings)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, with dots in the keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


_KINDS = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "model": "a table",
    "path": "a path",
    "string": "a text",
    "tuple": "a list",
}


def must_be(mistake: ErrorDetails) -> str:
    """Return the rule that a value breaks, as what comes after "must be"."""
    kind = _KINDS.get(mistake["type"].split("_")[0])
    rule = mistake["msg"].removeprefix("Input should be ")
    rule = rule.replace("greater than or equal to", "at least")
    return kind or rule.replace("less than or equal to", "at most")
