"""Reading annotation files, with errors that name the file and the place."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import InputError
from utils.texts import parse_json, read_json, read_text

Item = TypeVar("Item")
Row = dict[str, Any]
Check = Callable[[Row, str], Any]
"""Takes a row and its place, and raises an InputError where the row cannot be used."""


class BadRowsError(InputError):
    """Rows of a file that cannot be used: the message is the first one's, `reasons` holds all of them."""

    def __init__(self, reasons: list[str]):
        more = f" (and {len(reasons) - 1} more bad rows)" if len(reasons) > 1 else ""
        super().__init__(reasons[0] + more)
        self.reasons = reasons

    def __reduce__(self) -> tuple:
        return type(self), (self.reasons,)


def _read_each(numbered: Iterable[tuple[int, Item]], read: Callable[[int, Item], Row]) -> list[tuple[int, Row]]:
    """Read every row of a file, and only then raise a BadRowsError about those that cannot be used."""
    rows, reasons = [], []
    for number, item in numbered:
        try:
            rows.append((number, read(number, item)))
        except InputError as error:
            reasons.append(str(error))
    if reasons:
        raise BadRowsError(reasons)
    return rows


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read a text file.

    Args:
        path: the file.

    Returns:
        Line number and line for every line that is not blank.

    Raises:
        InputError: the file is missing or not UTF-8.
    """
    return [(number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]


def load_json(path: Path, kind: type) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        kind: type that the outermost value must have, dict or list.

    Returns:
        The outermost value.

    Raises:
        InputError: the file is missing, no JSON, or of another kind.
    """
    return expect(read_json(path), kind, f"{path}")


def read_json_lines(path: Path, columns: tuple[str, ...], check: Check | None = None) -> list[tuple[int, Row]]:
    """Read a file of one JSON object a line.

    Args:
        path: the file.
        columns: keys that every object must have, with a string each; it may have more.
        check: of each object.

    Returns:
        Line number and object for every line that is not blank.

    Raises:
        InputError: the file is missing or empty, or lines are no JSON or lack a key (BadRowsError).
    """

    def read(number: int, line: str) -> Row:
        row, place = parse_json(line, path, number), f"{path}, line {number}"
        for column in columns:
            field_of(row, column, str, place)
        if check:
            check(row, place)
        return row

    rows = _read_each(read_lines(path), read)
    if not rows:
        raise InputError(f"{path}: is empty; get the file again")
    return rows


def expect(value: Any, kind: type | tuple[type, ...], place: str) -> Any:
    """Return a value of the expected type.

    Args:
        value: what a file holds.
        kind: expected type or types.
        place: file and place, for the message.

    Returns:
        `value`.

    Raises:
        InputError: another type, a string of nothing but white space or with half a character, or a whole number that
            no float holds.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{place}: expected {names}, found {json.dumps(value)[:60]}; fix the entry")
    if isinstance(value, str) and not value.strip():
        raise InputError(f"{place}: is empty; fix or remove the entry")
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise InputError(f"{place}: has half a character, {ascii(value)[:60]}; fix the entry")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise InputError(f"{place}: is too large a number; fix the entry")
    return value


def field_of(mapping: Any, key: str, kind: type | tuple[type, ...], place: str) -> Any:
    """Return `mapping[key]`, which must have the type `kind`.

    Args:
        mapping: what a file holds, a dict if the file is as it should be.
        key: a key of it.
        kind: expected type or types of its value.
        place: file and place of `mapping`, for the message.

    Returns:
        The value.

    Raises:
        InputError: `mapping` is no dict, the key is missing, or its value is as `expect` refuses it.
    """
    if key not in expect(mapping, dict, place):
        raise InputError(f"{place}: has no key {key!r}; fix the entry")
    return expect(mapping[key], kind, f"{place}, {key!r}")


def read_csv(path: Path, columns: tuple[str, ...], check: Check | None = None) -> list[tuple[int, Row]]:
    """Read a CSV file with a header.

    Args:
        path: the file.
        columns: columns that it must have, each with a value in every row; it may have more.
        check: of each row.

    Returns:
        Line number and row (column -> value) for every row.

    Raises:
        InputError: the file is missing or no CSV, lacks a column or any row, or rows are too short, too long or empty
            in one of `columns` (BadRowsError).
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)

    def read(number: int, row: Row) -> Row:
        place = f"{path}, line {number}"
        if None in row or None in row.values():
            raise InputError(f"{place}: needs {len(reader.fieldnames)} values; fix the row")
        for column in columns:
            expect(row[column], str, f"{place}, column {column!r}")
        if check:
            check(row, place)
        return row

    try:
        absent = [column for column in columns if column not in (reader.fieldnames or ())]
        if absent:
            raise InputError(f"{path}, line 1: has no column {absent[0]!r}; the header must name {', '.join(columns)}")
        rows = _read_each(((reader.line_num, row) for row in reader), read)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: is no CSV ({error}); fix the row") from error
    if not rows:
        raise InputError(f"{path}: has no rows below its header; get the file again")
    return rows
