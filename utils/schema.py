"""Validation of the content of files."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from utils.errors import InputError, one_line, printable

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1000)]
Size = Annotated[int, Field(ge=1, le=4096)]


class Settings(BaseModel):
    """A pydantic model that refuses unknown keys, wrong types and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


Model = TypeVar("Model")


def validated(model: type[Model], values: Any, path: str | Path, remedy: str) -> Model:
    """Validate the content of a file, for `Settings` or a plain dataclass.

    Raises:
        InputError: one line that names the file, the first wrong entry and the remedy.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = printable(".".join(map(str, first["loc"]))[:100]) or "content"
        raise InputError(f"{path}: {place}: {one_line(first['msg'])}; {remedy}") from error
