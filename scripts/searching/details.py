"""A user's captions, tags and dates of videos, from a CSV file."""

import csv
import io
from datetime import date
from pathlib import Path

from scripts.searching.rows import Details
from utils.errors import InputError, one_line
from utils.texts import read_text

COLUMNS = ("video", "caption", "tags", "date")


def read_details(path: Path) -> dict[str, Details]:
    """Read a CSV file with the column video, a path within the folder, and any of caption, tags and date.

    Tags are separated by ";", a date is YYYY-MM-DD; both may be empty.

    Raises:
        InputError: the file cannot be read, or a column or a date is wrong.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    try:
        wrong = {*(reader.fieldnames or ())} - {*COLUMNS}
        if wrong or "video" not in (reader.fieldnames or ()):
            raise InputError(f"{path}, line 1: give the columns {', '.join(COLUMNS)}, video at least")
        return {row["video"]: _details(row) for row in reader}
    except (csv.Error, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}, line {reader.line_num}: {one_line(error)}; correct the line") from error


def _details(row: dict[str, str]) -> Details:
    tags = filter(None, map(str.strip, (row.get("tags") or "").split(";")))
    day = (row.get("date") or "").strip()
    return Details(row.get("caption") or "", tuple(tags), date.fromisoformat(day).isoformat() if day else "")
