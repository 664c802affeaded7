"""LSMDC (IJCV 2017): 101,079 training, 7,408 validation and 1,000 test captions of film clips; licence-gated."""

from pathlib import Path

from pydantic import Field, model_validator

from dataloaders.base import Split
from dataloaders.formats.schema import Entry, Text, check, group, not_empty, read_lines
from utils.errors import InputError

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",  # as published
}
COLUMNS = ("clip id", "start aligned", "end aligned", "start extracted", "end extracted", "sentence")


class Row(Entry):
    """A sentence about a clip, which is a file of its own."""

    clip_id: Text = Field(alias="clip id")
    start_aligned: str = Field(alias="start aligned")
    end_aligned: str = Field(alias="end aligned")
    start_extracted: str = Field(alias="start extracted")
    end_extracted: str = Field(alias="end extracted")
    sentence: Text

    @model_validator(mode="after")
    def check_times(self) -> "Row":
        """Refuse a start after the end; times have a fixed width (hours.minutes.seconds.milliseconds)."""
        for start, end in ((self.start_aligned, self.end_aligned), (self.start_extracted, self.end_extracted)):
            if len(start) == len(end) and start > end:
                raise ValueError(f"starts at {start}, after its end {end}")
        return self


def read_lsmdc(anno_path: Path, split: str) -> Split:
    """Read one of `FILES`: columns separated by tabs, no header, no quotes; every row is a caption."""
    path = anno_path / FILES[split]
    captions: dict[str, list[str]] = {}
    for line, text in not_empty(read_lines(path), path, "is empty"):
        place, cells = f"{path}, line {line}", text.strip("\r\n").split("\t")
        if len(cells) != len(COLUMNS):
            raise InputError(f"{place}: has {len(cells)} columns, not {len(COLUMNS)} divided by tabs; fix the row")
        row = check(Row, dict(zip(COLUMNS, map(str.strip, cells), strict=True)), place)
        captions.setdefault(row.clip_id, []).append(row.sentence)
    return group(captions)
