"""VATEX (ICCV 2019), 25,991, 1,500 and 1,500 clips of ten seconds with ten captions each; every caption is a query."""

import re
from pathlib import Path

from dataloaders.base import Split
from dataloaders.formats.schema import captions_of, group, read_ids, read_json
from utils.errors import InputError


def read_vatex(anno_path: Path, split: str) -> Split:
    """Read {split}_list.txt, an id per line, and ref_captions.json: id -> list of strings.

    An id is a YouTube video, start and end in seconds, as Ptf_2VRj-V0_000122_000132; a file holds that part alone.
    """
    list_path, path = anno_path / f"{split}_list.txt", anno_path / "ref_captions.json"
    ids = read_ids(list_path)
    for video_id in ids:
        times = re.fullmatch(r".+_(\d{6})_(\d{6})", video_id)
        if not times or int(times[1]) >= int(times[2]):
            raise InputError(f"{list_path}, {video_id!r}: does not end in a start and a later end; fix the entry")
    return group(captions_of(read_json(path, dict), ids, path))
