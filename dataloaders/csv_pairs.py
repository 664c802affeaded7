"""Anyone's own pairs: one file a split, CSV or JSONL, with a video and a caption a row."""

import math
from pathlib import Path
from typing import Any

from dataloaders.annotations import read_csv, read_json_lines
from dataloaders.base import Clip, Split
from dataloaders.captions import group
from utils.errors import InputError

COLUMNS = ("video", "caption")


def read_csv_pairs(anno_path: Path, split: str) -> Split:
    """Read one split.

    Args:
        anno_path: folder with {split}.csv or {split}.jsonl: columns or keys `video` (name of the file, with or without
            its ending), `caption`, and if wanted `start` and `end` in seconds, each of which a row may leave empty.
        split: "train", "val" or "test"; without a file for "val" it is the test split.

    Returns:
        Every row a caption; rows of the same video, start and end share a clip.

    Raises:
        InputError: a file is missing or malformed, or a clip's start is negative or not before its end.
    """
    captions: dict[Clip, list[str]] = {}
    path = _find(anno_path, split)
    read = read_csv if path.suffix == ".csv" else read_json_lines
    for line, row in read(path, COLUMNS, _window):
        clip = Clip(row["video"].strip(), *_window(row, f"{path}, line {line}"))
        captions.setdefault(clip, []).append(row["caption"])
    return group(list(captions), list(captions.values()))


def _find(anno_path: Path, split: str) -> Path:
    """The file of a split."""
    names = ("val", "test") if split == "val" else (split,)
    paths = [anno_path / f"{name}.{suffix}" for name in names for suffix in ("csv", "jsonl")]
    return next((path for path in paths if path.is_file()), paths[-2])


def _window(row: dict[str, Any], place: str) -> tuple[float | None, float | None]:
    """Start and end of a row."""
    start, end = (_seconds(row.get(name), f"{place}, {name!r}") for name in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise InputError(f"{place}: starts at {start or 0:g} s, not before its end at {end:g} s; fix the row")
    return start, end


def _seconds(value: Any, place: str) -> float | None:
    """A time, None where there is none."""
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"{place}: expected seconds, 0 or more, found {str(value)[:60]!r}; fix the row")
    return seconds
