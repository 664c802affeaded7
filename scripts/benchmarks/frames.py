"""Sampled frames of a video: decoded, and from a warm frame cache in both its forms."""

import importlib.util
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dataloaders.clips import read_clip
from dataloaders.frame_cache import FORMS, FrameCache
from scripts.benchmarks.loader import write_video
from scripts.benchmarks.measure import Row, count, measure_call, measure_in_turns
from utils.video.decode import decode_clip
from utils.video.positions import Sampling, frame_positions
from utils.video.transforms import ClipTransform


def add_arguments(parser: ArgumentParser) -> None:
    """The video, and how it is sampled."""
    parser.add_argument("--video", type=Path, help="file; without one a video of moving patterns and noise is made")
    parser.add_argument("--max_frames", type=count, default=12, help="maximum number of frames")
    parser.add_argument("--resolution", type=count, default=224, help="pixels")
    parser.add_argument("--repeats", type=count, default=5, help="runs")


def measure(video: Path | None, max_frames: int, resolution: int, repeats: int) -> list[Row]:
    """Seconds and megabytes of each way; "faster" is the processor time of decoding divided by that of the way.

    "decoding" is `decode_clip` alone, "decord2" the decoder of the published code, which checks nothing, if installed.

    Args:
        video: file, or None for one that is made.
        max_frames: maximum number of frames.
        resolution: pixels.
        repeats: runs.

    Raises:
        InputError: the video cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = video or write_video(Path(folder) / "video.mp4")
        read = partial(read_clip, path, ClipTransform(resolution), max_frames=max_frames)
        calls = {"decoding": partial(decode_clip, path, max_frames=max_frames), "decoded and resized": read}
        if importlib.util.find_spec("decord"):
            calls["decord2"] = published_decoder(path, max_frames)
        rows = [{"case": name, **row} for name, (_, row) in measure_in_turns(calls, repeats).items()]
        decoded = rows[1]
        for form in FORMS:
            cache = FrameCache(Path(folder) / form, gigabytes=1, form=form)
            _, row = measure_call(partial(read, cache=cache), repeats)
            entry = next(cache.folder.glob("*/*"))
            faster = decoded["processor s"] / row["processor s"]
            rows.append({"case": form, **row, "faster": faster, "kept MB": entry.stat().st_size / 2**20})
    return rows


def published_decoder(path: Path, max_frames: int) -> Callable[[], np.ndarray]:
    """A function that decodes the same frames as the published code does."""
    decord = importlib.import_module("decord")  # installed for comparisons alone
    decord.logging.set_level(decord.logging.QUIET)

    def decode() -> np.ndarray:
        reader = decord.VideoReader(str(path), num_threads=1)
        positions = frame_positions(reader.get_avg_fps(), len(reader), Sampling(max_frames=max_frames))
        return reader.get_batch(positions).asnumpy()

    return decode
