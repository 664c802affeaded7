"""What is wrong with a video file, found before training does."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch  # noqa: F401  before decord, which brings its own copies of system libraries

# isort: split
import av
import decord

from dataloaders.container import missing_bytes
from dataloaders.scrutiny import read_extent
from dataloaders.video import reason_of

PROBLEMS = {
    "missing": "no file of that name",
    "unreadable": "the file cannot be opened",
    "empty": "0 bytes",
    "truncated": "the file ends before its container says",
    "too large": "more pixels, frames or seconds than are decoded",
    "undecodable": "no video, or its first, middle or last frame cannot be decoded",
    "frame rate": "the header gives no possible number of frames a second",
    "one frame": "a still picture, which training takes as a video of one frame",
    "duplicate": "the same bytes as another video",
}
HARMLESS = ("one frame", "duplicate")
"""What training can use all the same."""
SLOWEST_FRAME_RATE = 1.0
"""Frames a second; a track whose time scale is 0 is played by decoders at far less."""
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Inspection:
    """What was found of a file.

    Attributes:
        problem: a key of `PROBLEMS`, None if all is well.
        reason: details of the problem.
        seconds: how long the video lasts, None if unknown.
    """

    problem: str | None = None
    reason: str = ""
    seconds: float | None = None


def inspect_video(path: Path) -> Inspection:
    """Look at a file's length and header, and decode its first, middle and last frame."""
    try:
        missing, size = missing_bytes(path), path.stat().st_size
    except OSError as error:
        return Inspection("unreadable", str(error.strerror))
    if not size:
        return Inspection("empty")
    if missing:
        return Inspection("truncated", f"{missing} bytes are missing")
    try:
        if excess := read_extent(path).excess():
            return Inspection("too large", excess)
        reader = decord.VideoReader(str(path), num_threads=1)
        frames, rate = len(reader), reader.get_avg_fps()
        reader.get_batch(sorted({0, frames // 2, frames - 1}))
    except (av.FFmpegError, decord.DECORDError, RuntimeError, AssertionError, IndexError) as error:
        return Inspection("undecodable", reason_of(error))
    if not (math.isfinite(rate) and rate >= SLOWEST_FRAME_RATE):
        return Inspection("frame rate", f"{rate:.2g} frames a second")
    return Inspection("one frame" if frames == 1 else None, seconds=frames / rate)


def find_duplicates(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of two or more files of the same content; only files of the same size are read, empty ones not at all."""
    by_size = defaultdict(list)
    for path in paths:
        by_size[path.stat().st_size].append(path)
    by_content = defaultdict(list)
    for size, same in by_size.items():
        if size and len(same) > 1:
            for path in same:
                by_content[_digest(path)].append(path)
    return [same for same in by_content.values() if len(same) > 1]


def _digest(path: Path) -> bytes:
    """Digest of a file's content."""
    digest = hashlib.blake2b()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.digest()
