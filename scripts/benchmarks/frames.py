"""The sampled frames of a video: decoded, and from a warm frame cache in both its forms."""

import tempfile
from argparse import ArgumentParser
from functools import partial
from pathlib import Path

from dataloaders.clips import read_clip
from dataloaders.frame_cache import FORMS, FrameCache
from scripts.benchmarks.loader import write_video
from scripts.benchmarks.measure import Row, count, measure_call
from utils.video.transforms import ClipTransform


def add_arguments(parser: ArgumentParser) -> None:
    """The video, and how it is sampled."""
    parser.add_argument("--video", type=Path, help="file; without one a video of moving patterns and noise is made")
    parser.add_argument("--max_frames", type=count, default=12, help="the most frames")
    parser.add_argument("--resolution", type=count, default=224, help="pixels")
    parser.add_argument("--repeats", type=count, default=5, help="runs")


def measure(video: Path | None, max_frames: int, resolution: int, repeats: int) -> list[Row]:
    """Seconds and megabytes of each way; "faster" is the processor time of decoding divided by that of the way.

    Args:
        video: file, or None for one that is made.
        max_frames: the most frames.
        resolution: pixels.
        repeats: runs.

    Raises:
        InputError: the video cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = video or write_video(Path(folder) / "video.mp4")
        read = partial(read_clip, path, ClipTransform(resolution), max_frames=max_frames)
        _, decoded = measure_call(read, repeats)
        rows = [{"case": "decoded", **decoded}]
        for form in FORMS:
            cache = FrameCache(Path(folder) / form, gigabytes=1, form=form)
            _, row = measure_call(partial(read, cache=cache), repeats)
            entry = next(cache.folder.glob("*/*"))
            faster = decoded["processor s"] / row["processor s"]
            rows.append({"case": form, **row, "faster": faster, "kept MB": entry.stat().st_size / 2**20})
    return rows
