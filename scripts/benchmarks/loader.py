"""Samples of a video of 15 s, 320 x 240, 30 frames a second, H.264: decoding alone, testing, training."""

import tempfile
from argparse import ArgumentParser
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from dataloaders.augment import RandAugment
from dataloaders.clips import read_clip
from scripts.benchmarks.measure import Row, count, measure_in_turns
from utils.video.decode import decode_clip
from utils.video.transforms import ClipTransform

WIDTH, HEIGHT, FRAMES, FRAMERATE = 320, 240, 450, 30


def add_arguments(parser: ArgumentParser) -> None:
    """The video, and how it is sampled."""
    parser.add_argument("--video", type=Path, help="file; without one a video of moving patterns and noise is made")
    parser.add_argument("--max_frames", type=count, default=12, help="maximum number of frames")
    parser.add_argument("--resolution", type=count, default=224, help="pixels")
    parser.add_argument("--pairs", type=count, default=16, help="samples of a GPU in a step")
    parser.add_argument("--step_ms", type=count, default=55, help="milliseconds of that step, see the subject plan")
    parser.add_argument("--repeats", type=count, default=100, help="runs")


def measure(
    video: Path | None, max_frames: int, resolution: int, pairs: int, step_ms: int, repeats: int
) -> list[Row]:
    """Seconds and megabytes; "of decoding" is the mean as a multiple of decoding's, "sample MB" the size of a sample.

    "cores a GPU" is the number of such cores with which a GPU does not wait for samples. Augmentations differ much in
    cost, so compare the means.

    Args:
        video: file, or None for one that is made.
        max_frames: maximum number of frames.
        resolution: pixels.
        pairs: samples of a GPU in a step.
        step_ms: milliseconds of that step.
        repeats: runs.

    Raises:
        InputError: the video cannot be read.
    """
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = video or write_video(Path(folder) / "video.mp4")
        read = partial(read_clip, path, ClipTransform(resolution), max_frames=max_frames)
        calls = {
            "decoding": partial(decode_clip, path, max_frames=max_frames),
            "test sample": read,
            "training sample": partial(read, augment=RandAugment()),
        }
        measured = measure_in_turns(calls, repeats)
    decoding, speed = measured["decoding"][1]["mean s"], pairs / step_ms * 1000
    return [
        {
            "case": name,
            **row,
            "of decoding": row["mean s"] / decoding,
            "sample MB": result.nbytes / 2**20,
            "cores a GPU": row["mean s"] * speed,
        }
        for name, (result, row) in measured.items()
    ]


def write_video(path: Path) -> Path:
    """Write a drifting pattern under noise, with key frames where the encoder sets them."""
    rng = np.random.default_rng(0)
    pattern = cv2.resize(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (WIDTH + FRAMES, HEIGHT))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMERATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for shift in range(FRAMES):
            noise = rng.integers(0, 12, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            frame = cv2.add(pattern[:, shift : shift + WIDTH], noise)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
