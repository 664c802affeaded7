"""DiDeMo (ICCV 2017), paragraph to video: 8,392, 1,065 and 1,004 videos."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from dataloaders.base import Clip, Split
from dataloaders.files import without_suffix
from dataloaders.formats.schema import Entry, Number, Text, captions_of, group, read_ids, read_json

WINDOW_SECONDS = 31


def _times(times: list[float]) -> list[float]:
    if len(times) != 2 or times[0] > times[1]:
        raise ValueError(f"{times} is no start and an end after it")
    return times


class Description(Entry):
    """A sentence about parts of a video."""

    video: Annotated[Text, AfterValidator(without_suffix)]
    description: Text
    times: list[Annotated[list[Number], AfterValidator(_times)]]


def read_didemo(anno_path: Path, split: str) -> Split:
    """Read {split}_list.txt, an id per line, and {split}_data.json, a list of descriptions.

    A video's descriptions are joined by spaces. Clips are the first 31 seconds, as published.
    """
    ids = list(dict.fromkeys(map(without_suffix, read_ids(anno_path / f"{split}_list.txt"))))
    path, descriptions = anno_path / f"{split}_data.json", {}
    for entry in read_json(path, list[Description]):
        descriptions.setdefault(entry.video, []).append(entry.description)
    found = captions_of(descriptions, ids, path)
    return group({Clip(video_id, 0, WINDOW_SECONDS): [" ".join(captions)] for video_id, captions in found.items()})
