"""VATEX (ICCV 2019), 25,991, 1,500 and 1,500 clips of ten seconds with ten captions each; every caption is a query."""

import re
from pathlib import Path

from dataloaders.annotations import load_json
from dataloaders.base import Clip, Split
from dataloaders.captions import captions_of, group, read_ids
from utils.errors import InputError


def read_vatex(anno_path: Path, split: str) -> Split:
    """Read one split.

    Args:
        anno_path: folder with train_list.txt, val_list.txt and test_list.txt (an id a line, such as
            Ptf_2VRj-V0_000122_000132: a YouTube video, start and end in seconds) and ref_captions.json (id -> list of
            strings).
        split: "train", "val" or "test".

    Returns:
        Every caption of every listed clip. The files are the clips, cut out already and named by the whole id.

    Raises:
        InputError: a file is missing or malformed, or a listed clip has no caption or ends before it starts.
    """
    list_path, path = anno_path / f"{split}_list.txt", anno_path / "ref_captions.json"
    ids = read_ids(list_path)
    for video_id in ids:
        times = re.fullmatch(r".+_(\d{6})_(\d{6})", video_id)
        if not times or int(times[1]) >= int(times[2]):
            raise InputError(f"{list_path}, {video_id!r}: does not end in a start and a later end; fix the entry")
    return group([Clip(video_id) for video_id in ids], captions_of(load_json(path, dict), ids, str(path)))
