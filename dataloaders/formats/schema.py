"""Validation of annotation files by pydantic, with errors that name the file, the place and the remedy."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, PlainValidator, Strict, TypeAdapter, ValidationError

from dataloaders.base import Clip, Split
from utils.errors import InputError, printable
from utils.texts import parse_json, read_text
from utils.texts import read_json as parse_file

Row = TypeVar("Row", bound=BaseModel)
NAMES = {"string": "str", "model": "dict"}
"""Names of types in messages, where pydantic's differ from Python's."""


class Entry(BaseModel):
    """An object or a row of a file; undeclared keys are allowed."""

    model_config = ConfigDict(frozen=True)


def typed(value: Any, *kinds: type) -> Any:
    """Return a value if it is of one of the types, otherwise raise a ValueError."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"expected {' or '.join(kind.__name__ for kind in kinds)}, found {_shown(value)}")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ValueError("is too large a number")
    return value


def _text(value: Any) -> str:
    if not typed(value, str).strip():
        raise ValueError("is empty")
    if re.search("[\ud800-\udfff]", value):
        raise ValueError(f"has half a character, {ascii(value)[:60]}")
    return value


def _caption(value: Any) -> str:
    return _text(" ".join(map(_text, value)) if isinstance(typed(value, str, list), list) else value)


Text = Annotated[str, PlainValidator(_text)]
Number = Annotated[float, PlainValidator(lambda value: typed(value, int, float))]
Whole = Annotated[int, PlainValidator(lambda value: typed(value, int))]
Captions = dict[Any, Annotated[list[Annotated[str, PlainValidator(_caption)]], Strict()]]
"""Captions by video, each a string or a list of words."""


class BadRowsError(InputError):
    """Unusable rows of a file: the message is that of the first one, `reasons` holds all."""

    def __init__(self, reasons: list[str]):
        more = f" (and {len(reasons) - 1} more bad rows)" if len(reasons) > 1 else ""
        super().__init__(reasons[0] + more)
        self.reasons = reasons

    def __reduce__(self) -> tuple:
        return type(self), (self.reasons,)


def check(kind: Any, value: Any, place: str | Path) -> Any:
    """Validate a value of a file, by a type that pydantic knows; an InputError names the place of the first error."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        within, expected = list(first["loc"]), first["type"].removesuffix("_type")
        if expected == "missing":
            reason = f"has no key {within.pop()!r}"
        elif expected == "value_error":
            reason = str(first["ctx"]["error"])
        else:
            reason = f"expected {NAMES.get(expected, expected)}, found {_shown(first['input'])}"
        names = [f"[{part}]" if isinstance(part, int) else repr(part) for part in within]
        raise InputError(f"{', '.join([str(place), *names])}: {reason}; fix the entry") from error


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _shown(value: Any) -> str:
    return json.dumps(value, default=repr)[:60]


def read_json(path: Path, kind: Any) -> Any:
    """Read a JSON file that holds a value of type `kind`."""
    return check(kind, parse_file(path), path)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read number and text of the lines that are not blank."""
    return [(number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]


def read_ids(path: Path) -> list[str]:
    """Read a list of video ids, one per line; duplicates are dropped."""
    ids = list(dict.fromkeys(line.strip() for _, line in read_lines(path)))
    return not_empty(ids, path, "lists no video")


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read a file with a `kind` per line: JSON, or CSV with a header if its name ends so.

    Raises:
        InputError: the file cannot be read or has no rows; unusable rows are a BadRowsError.
    """
    is_csv, rows, reasons = path.suffix == ".csv", [], []
    parse: Callable[..., Any] = _complete if is_csv else parse_json
    lines: Any = _read_csv(path, kind) if is_csv else not_empty(read_lines(path), path, "is empty")
    for line, content in lines:
        try:
            rows.append(check(kind, parse(content, path, line), f"{path}, line {line}"))
        except InputError as error:
            reasons.append(str(error))
    if reasons:
        raise BadRowsError(reasons)
    return rows


def _complete(row: dict, path: Path, line: int) -> dict[str, str]:
    if None in row or None in row.values():
        raise InputError(f"{path}, line {line}: needs {len(row.keys() - {None})} values; fix the row")
    return row


def _read_csv(path: Path, kind: type[Row]) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    columns = [name for name, field in kind.model_fields.items() if field.is_required()]
    try:
        absent = [column for column in columns if column not in (reader.fieldnames or ())]
        if absent:
            raise InputError(f"{path}, line 1: has no column {absent[0]!r}; the header must name {', '.join(columns)}")
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: is no CSV ({error}); fix the row") from error
    return not_empty(rows, path, "has no rows below its header")


Items = TypeVar("Items", bound=Sequence)


def not_empty(items: Items, path: Path, otherwise: str) -> Items:
    """Return the items of a file if there are any; `otherwise` is the text of the error."""
    if not items:
        raise InputError(f"{path}: {otherwise}; get the file again")
    return items


def captions_of(captions: Mapping[str, Any], ids: Iterable[str], path: Path) -> dict[str, list[str]]:
    """Look up the captions of listed videos, one or more each, in the content of the file `path`."""
    ids = list(ids)
    silent = [video_id for video_id in ids if not captions.get(video_id)]
    if silent:
        first = printable(silent[0])
        raise InputError(f"{path}: {len(silent)} listed videos have no caption, first {first}; get the file again")
    return check(Captions, {video_id: captions[video_id] for video_id in ids}, path)


def group(captions: Mapping[Clip, Sequence[str]] | Mapping[str, Sequence[str]]) -> Split:
    """Make a split of clips, or ids of whole videos, with one or more captions each."""
    return Split(
        clips=[clip if isinstance(clip, Clip) else Clip(clip) for clip in captions],
        captions=[caption for of_clip in captions.values() for caption in of_clip],
        clip_of_caption=[index for index, of_clip in enumerate(captions.values()) for _ in of_clip],
    )
