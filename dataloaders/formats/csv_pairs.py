"""A user's own pairs: a CSV or JSONL file for each split, with a video and a caption in each row."""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, model_validator

from dataloaders.base import Clip, Split
from dataloaders.formats.schema import Entry, Text, group, read_rows


def _seconds(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"expected seconds, 0 or more, found {str(value)[:60]!r}")
    return seconds


Seconds = Annotated[float | None, PlainValidator(_seconds)]


class Pair(Entry):
    """A caption of a video, or of the part between two times."""

    video: Text
    caption: Text
    start: Seconds = None
    end: Seconds = None

    @model_validator(mode="after")
    def check_times(self) -> "Pair":
        """Refuse an empty window."""
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(f"starts at {self.start or 0:g} s, not before its end at {self.end:g} s")
        return self


def read_csv_pairs(anno_path: Path, split: str) -> Split:
    """Read {split}.csv or {split}.jsonl with a `Pair` in each row; rows with the same video and times share a clip."""
    captions: dict[Clip, list[str]] = {}
    for row in read_rows(find_pairs(anno_path, split) or anno_path / f"{split}.csv", Pair):
        captions.setdefault(Clip(row.video.strip(), row.start, row.end), []).append(row.caption)
    return group(captions)


def find_pairs(anno_path: Path, split: str) -> Path | None:
    """The file of a split, if there is one."""
    paths = (anno_path / f"{split}.{suffix}" for suffix in ("csv", "jsonl"))
    return next((path for path in paths if path.is_file()), None)
