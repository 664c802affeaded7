"""Playback in browsers: files that they play directly, and conversion of others to H.264."""

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from utils.files import atomic_write, claim_folder, remove
from utils.video.decode import Video
from utils.video.picture import Canvas
from utils.video.positions import Timeline

PLAYED_FILES = (".mp4", ".m4v", ".webm")
PLAYED_PICTURES = ("h264", "vp8", "vp9", "av1")
PLAYED_SOUND = ("aac", "mp3", "opus", "vorbis", "flac")
LARGEST_SIDE = 640
"""Maximum side of a converted picture in pixels."""
MAX_FRAMES = 3600
"""Maximum frames of a converted segment; later ones are left out."""
PATIENCE = 30.0
"""Seconds after which a conversion ends early."""
KEPT = 64
"""Number of converted segments that are kept."""
TICKS = 1000
"""Units of time in a second of the converted file."""


def is_played(path: Path) -> bool:
    """Whether browsers play a file directly."""
    if path.suffix.lower() not in PLAYED_FILES:
        return False
    try:
        with av.open(str(path)) as container:
            pictures = [stream.codec_context for stream in container.streams.video]
            sound = [stream.codec_context.name for stream in container.streams.audio]
    except (av.FFmpegError, OSError):
        return False
    plain = all(codec.name in PLAYED_PICTURES and codec.pix_fmt in ("yuv420p", "yuvj420p") for codec in pictures)
    return plain and set(sound) <= set(PLAYED_SOUND)


def picture_begins(path: Path) -> float:
    """Second of a browser's clock at which the first frame is shown: above 0 if the sound begins earlier."""
    with av.open(str(path)) as container:
        starts = [float((stream.start_time or 0) * stream.time_base) for stream in container.streams.video[:1]]
        return max(0.0, *starts)


class Converter:
    """Converts segments for browsers, one at a time, without sound; `folder` keeps the latest ones."""

    def __init__(self, folder: Path):
        self.folder, self._lock = claim_folder(folder, "converted videos"), threading.Lock()

    def segment(self, path: Path, start: float, end: float) -> Path:
        """The converted segment of a video, seconds `start` to `end` of its frames.

        Raises:
            InputError: the video cannot be decoded.
        """
        status = path.stat()
        made_of = f"{path} {status.st_size} {status.st_mtime_ns} {start} {end}"
        target = self.folder / f"{hashlib.sha256(made_of.encode()).hexdigest()}.mp4"
        with self._lock:
            if not target.exists():
                with atomic_write(target, "wb") as file:
                    _convert(path, start, end, file)
                for old in sorted(self.folder.glob("*.mp4"), key=lambda kept: kept.stat().st_mtime)[:-KEPT]:
                    remove(old, r"[0-9a-f]{64}\.mp4")
        return target


def _convert(path: Path, start: float, end: float, file: BinaryIO) -> None:
    """Write a segment as H.264 in MP4."""
    deadline = time.monotonic() + PATIENCE
    times = np.empty(0)

    def choose(timeline: Timeline) -> list[int]:
        nonlocal times
        times = timeline.times
        first, last = timeline.shown_at(np.array([start, end]))
        return list(range(max(first, 0), last + 1))[:MAX_FRAMES]

    def write(frames: Iterator[av.VideoFrame], positions: Sequence[int]) -> None:
        file.seek(0)  # the frames are repeated if the timeline was wrong
        file.truncate()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, TICKS)
            for position, frame in zip(positions, frames, strict=False):
                canvas = Canvas(video.pixel_shape, 1)
                canvas.add(frame)
                height, width = _even_size(*canvas.pictures.shape[1:3])
                if position == positions[0]:
                    stream.width, stream.height = width, height
                picture = av.VideoFrame.from_ndarray(canvas.pictures[0], format="rgb24")
                picture = picture.reformat(stream.width, stream.height, "yuv420p")
                picture.pts = round((times[position] - times[positions[0]]) * TICKS)
                picture.time_base = Fraction(1, TICKS)
                container.mux(stream.encode(picture))
                if time.monotonic() > deadline:
                    break
            container.mux(stream.encode())

    with Video(path) as video:
        video.read(choose, write)


def _even_size(*size: int) -> tuple[int, ...]:
    """A size within `LARGEST_SIDE`, even as H.264 needs it."""
    scale = min(1, LARGEST_SIDE / max(size))
    return tuple(max(2, int(side * scale) // 2 * 2) for side in size)
