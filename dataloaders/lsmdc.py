"""LSMDC (IJCV 2017): 101,079 training, 7,408 validation and 1,000 test captions of film clips; licence-gated."""

from pathlib import Path

from dataloaders.annotations import expect, read_lines
from dataloaders.base import Clip, Split
from dataloaders.captions import group
from utils.errors import InputError

# The last name is spelled so.
FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
COLUMNS = ("clip id", "start aligned", "end aligned", "start extracted", "end extracted", "sentence")


def read_lsmdc(anno_path: Path, split: str) -> Split:
    """Read one split.

    Args:
        anno_path: folder with the three files in `FILES`: columns divided by tabs, no header, no quotes.
        split: "train", "val" or "test".

    Returns:
        Every row a caption; clips are whole files named by the clip id.

    Raises:
        InputError: a file is missing or empty, or a row has another number of columns or no id or sentence, or ends
            before it starts.
    """
    path = anno_path / FILES[split]
    captions: dict[str, list[str]] = {}
    for line, text in read_lines(path):
        place = f"{path}, line {line}"
        cells = text.strip("\r\n").split("\t")
        if len(cells) != len(COLUMNS):
            raise InputError(f"{place}: has {len(cells)} columns, not {len(COLUMNS)} divided by tabs; fix the row")
        row = dict(zip(COLUMNS, map(str.strip, cells), strict=True))
        for window in ("aligned", "extracted"):
            # Times of equal width (hours.minutes.seconds.milliseconds) are in order when their text is.
            start, end = row[f"start {window}"], row[f"end {window}"]
            if len(start) == len(end) and start > end:
                raise InputError(f"{place}: starts at {start}, after its end {end}; fix the row")
        clip_id, sentence = (expect(row[column], str, f"{place}, {column}") for column in ("clip id", "sentence"))
        captions.setdefault(clip_id, []).append(sentence)
    if not captions:
        raise InputError(f"{path}: is empty; get the file again")
    return group([Clip(clip_id) for clip_id in captions], list(captions.values()))
