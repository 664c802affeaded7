"""ActivityNet Captions (ICCV 2017), paragraph to video: 10,009 training videos, 4,917 for evaluation."""

import math
from pathlib import Path

from dataloaders.annotations import expect, field_of, load_json
from dataloaders.base import Clip, Split
from utils.errors import InputError


def read_activity(anno_path: Path, split: str) -> Split:
    """Read one split.

    Args:
        anno_path: folder with train_ids.json and train.json for training, val_ids.json and val_1.json for evaluation:
            a list of ids "v_...", and id -> {duration in seconds, sentences}.
        split: "train", "val" or "test"; both evaluations use the first validation set, as published.

    Returns:
        One caption a video: its sentences joined by a blank. Clips last from 0 to the duration, rounded up.

    Raises:
        InputError: a file is missing or malformed, or a listed video is not annotated.
    """
    names = ("train_ids.json", "train.json") if split == "train" else ("val_ids.json", "val_1.json")
    list_path, path = (anno_path / name for name in names)
    videos = load_json(path, dict)
    clips, captions = [], []
    for number, video_id in enumerate(load_json(list_path, list)):
        expect(video_id, str, f"{list_path}, [{number}]")
        place = f"{path}, {video_id!r}"
        video = field_of(videos, video_id, dict, f"{path}")
        duration = field_of(video, "duration", (int, float), place)
        if not (math.isfinite(duration) and duration > 0):
            raise InputError(f"{place}: lasts {duration} s; fix the entry")
        sentences = field_of(video, "sentences", list, place)
        clips.append(Clip(video_id, 0, math.ceil(duration)))
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise InputError(f"{place}, 'sentences': expected strings; fix the entry")
        captions.append(expect(" ".join(sentences), str, f"{place}, 'sentences'"))
    if not clips:
        raise InputError(f"{list_path}: lists no video; get the file again")
    return Split(clips, captions, list(range(len(clips))))
