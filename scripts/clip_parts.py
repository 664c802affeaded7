"""Clips of a folder or a data set in parts, which processes share, for commands that resume."""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from dataloaders import Clip, build_split
from dataloaders.files import find_videos, list_videos
from utils.arguments import COUNT, WORKERS
from utils.distributed import barrier, is_main, rank, world_size
from utils.errors import InputError
from utils.files import atomic_write, claim_folder
from utils.texts import read_json


def add_clip_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the flags of the clips, their frames, and the folder to write."""
    group.add_argument("--video_path", type=Path, required=True, help="folder of the videos")
    group.add_argument("--anno_path", help="folder of a data set's annotations; left out: every video of the folder")
    group.add_argument("--datatype", default="csv", help="name of the data set")
    group.add_argument("--skip_missing_videos", action="store_true", help="leave out clips whose video is not found")
    group.add_argument("--max_frames", type=COUNT, default=12, help="frames of a clip")
    group.add_argument("--video_framerate", type=COUNT, default=1, help="frames taken from a second of video")
    group.add_argument("--frame_rule", choices=("decord", "cv2"), help="which frames; left out: the data set's")
    group.add_argument("--slice_framepos", type=int, choices=(0, 1, 2), default=2,
                       help="of too many frames take the first, the last or evenly spread ones")
    group.add_argument("--output", type=Path, required=True, help="folder to write")
    group.add_argument("--workers", type=WORKERS, default=2, help="decoding processes of each process")


class Clips(Dataset):
    """What `read` makes of each clip, or the reason of a failure: (index, result or None, reason or "").

    `read` takes a file, start and end, as `dataloaders.clips.read_clip` does.
    """

    def __init__(self, clips: Sequence[Clip], files: Sequence[Path], read: Callable[..., Any]):
        self.clips, self.files, self.read = clips, files, read

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, Any, str]:
        clip = self.clips[index]
        try:
            return index, self.read(self.files[index], start=clip.start, end=clip.end), ""
        except InputError as error:
            return index, None, str(error)


def find_clips(args: argparse.Namespace, *splits: str) -> tuple[list[Clip], list[Path]]:
    """The clips of the command line, each once, and their files; with --anno_path those of the splits."""
    if args.anno_path is None:
        files = list_videos(args.video_path)
        if not files:
            raise InputError(f"{args.video_path}: no such folder, or no video in it; give a folder of videos")
        return [Clip(path.relative_to(args.video_path).as_posix()) for path in files], files
    named = [clip for split in splits for clip in build_split(args.datatype, args.anno_path, split).clips]
    videos = find_videos(
        args.video_path, [clip.video_id for clip in named], skip_missing=args.skip_missing_videos
    )
    clips = [clip for clip in dict.fromkeys(named) if clip.video_id in videos]
    return clips, [videos[clip.video_id] for clip in clips]


def clips_digest(clips: Sequence[Clip], files: Sequence[Path]) -> str:
    """SHA-256 of the clips and the sizes of their videos."""
    sizes = [[*asdict(clip).values(), path.stat().st_size] for clip, path in zip(clips, files, strict=True)]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def claim_output(args: argparse.Namespace, kind: str, name: str, about: dict[str, Any]) -> None:
    """Make the output folder with `about` in the file `name`, or check that what it holds was made as `about` says."""
    claim_folder(args.output, kind, apart_from=[args.video_path], flag="--output")
    path = args.output / name
    if path.exists() and read_json(path) != about:
        raise InputError(f"{args.output}: was made of other videos, or otherwise; give another --output")
    barrier()  # no process writes before all have checked
    if is_main():
        with atomic_write(path) as file:
            json.dump(about, file, indent=1)


def parts(clips: int, size: int) -> list[range]:
    """Cut the numbers of the clips into parts of the same size but the last."""
    return [range(first, min(first + size, clips)) for first in range(0, clips, size)]


def own_parts(is_done: Sequence[bool]) -> list[int]:
    """Numbers of the parts that this process is to make."""
    return [number for number in range(rank(), len(is_done), world_size()) if not is_done[number]]
