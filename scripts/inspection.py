"""Inspection of a video file for problems before training."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.video.decode import Video
from utils.video.errors import VideoError

PROBLEMS = {
    "missing": "no file of that name",
    "ambiguous": "several files of that name in different folders",
    "unreadable": "the file cannot be opened",
    "empty": "0 bytes",
    "truncated": "the file ends before its container says",
    "too large": "more pixels, frames or seconds than are decoded",
    "undecodable": "no video, or the last frame or one that training takes is lost",
    "unreliable": "time stamps are missing or run backwards",
    "window": "the video ends before the annotated window",
    "frame rate": "the header gives no possible number of frames a second",
    "one frame": "a still picture, which training takes as a video of one frame",
    "duplicate": "the same bytes as another video",
}
HARMLESS = ("one frame", "duplicate")
"""Problems that do not prevent training."""
SLOWEST_FRAME_RATE = 1.0
"""Minimum frames a second; decoders play a track with time scale 0 at far less."""
BLOCK_BYTES = 1 << 20
Window = tuple[float | None, float | None]


@dataclass(frozen=True)
class Inspection:
    """Result for a file.

    Attributes:
        problem: a key of `PROBLEMS`, None if there is none.
        reason: details of the problem.
        seconds: duration of the video, None if unknown.
    """

    problem: str | None = None
    reason: str = ""
    seconds: float | None = None


def inspect_video(path: Path, windows: Sequence[Window] = ((None, None),), **sampling: Any) -> Inspection:
    """Decode the frames that training takes of a file, and its last one, and check their time stamps.

    Args:
        path: the file.
        windows: start and end of each clip in seconds.
        **sampling: keywords of `utils.video.decode.decode_clip`.
    """
    try:
        with Video(path) as video:
            check_frame_rate(video)
            for start, end in windows:
                video.clip(start=start, end=end, **sampling)
            video.read(lambda timeline: [len(timeline.times) - 1], lambda frames, positions: list(frames))
            timeline = video.timeline
    except VideoError as error:
        return Inspection(error.problem, error.reason)
    return Inspection("one frame" if len(timeline.times) == 1 else None, seconds=timeline.duration)


def check_frame_rate(video: Video) -> None:
    """Raise a VideoError for fewer than `SLOWEST_FRAME_RATE` frames a second."""
    rate = video.timeline.rate
    if rate < SLOWEST_FRAME_RATE:
        raise VideoError.of(video.path, "frame rate", f"has {rate:.2g} frames a second", "encode it again")


def find_duplicates(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of files with the same content; only files of the same size are read, and no empty ones."""
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
