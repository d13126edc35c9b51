"""What all settings are made of: frozen typed values, refused where they cannot be right."""

from typing import Annotated, TypeVar

import tyro
from pydantic import BaseModel, ConfigDict, Field

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
