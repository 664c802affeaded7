"""Reading text and JSON, with errors that name the file and the line."""

import json
import stat
from pathlib import Path
from typing import Any

from utils.errors import InputError

MAX_BYTES = 2**31
"""Maximum size of a text file; annotations of all data sets are much smaller."""


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: the file is missing, no regular file, too large or not UTF-8.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is no regular file; check the path")
        if status.st_size > max_bytes:
            raise InputError(f"{path}: has {status.st_size} bytes, {max_bytes} are allowed; get the file again")
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); get the file again") from error


def read_json(path: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read the value that a JSON file holds.

    Raises:
        InputError: as `read_text`, or it is no JSON.
    """
    return parse_json(read_text(path, max_bytes), path)


def parse_json(text: str, path: str | Path, first_line: int = 1) -> Any:
    """Parse JSON from a part of a file that begins at `first_line`; an InputError names `path` and line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"{path}, line {line}: is no JSON ({error.msg}); get the file again") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of nested brackets
        raise InputError(f"{path}, from line {first_line} on: cannot be read ({error}); get the file again") from error
