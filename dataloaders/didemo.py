"""DiDeMo (ICCV 2017), paragraph to video: 8,392, 1,065 and 1,004 videos."""

from pathlib import Path

from dataloaders.annotations import expect, field_of, load_json
from dataloaders.base import Clip, Split
from dataloaders.captions import captions_of, group, read_ids
from dataloaders.files import without_suffix
from utils.errors import InputError

WINDOW_SECONDS = 31


def read_didemo(anno_path: Path, split: str) -> Split:
    """Read one split.

    Args:
        anno_path: folder with {split}_list.txt (an id a line) and {split}_data.json (list of {video, description,
            times}); ids with or without the ending of a file's name.
        split: "train", "val" or "test".

    Returns:
        One caption a video: all its descriptions joined by a blank. Clips are the first 31 seconds, as published.

    Raises:
        InputError: a file is missing or malformed, or a listed video has no description.
    """
    ids = list(dict.fromkeys(map(without_suffix, read_ids(anno_path / f"{split}_list.txt"))))
    path = anno_path / f"{split}_data.json"
    descriptions: dict[str, list[str]] = {}
    for number, entry in enumerate(load_json(path, list)):
        place = f"{path}, [{number}]"
        video_id = without_suffix(field_of(entry, "video", str, place))
        descriptions.setdefault(video_id, []).append(field_of(entry, "description", str, place))
        for times in field_of(entry, "times", list, place):
            parts = expect(times, list, f"{place}, 'times'")
            start_and_end = [expect(time, (int, float), f"{place}, 'times'") for time in parts]
            if len(start_and_end) != 2 or start_and_end[0] > start_and_end[1]:
                raise InputError(f"{place}, 'times': {times} is no start and an end after it; fix the entry")
    paragraphs = [[" ".join(found)] for found in captions_of(descriptions, ids, str(path))]
    return group([Clip(video_id, 0, WINDOW_SECONDS) for video_id in ids], paragraphs)
