"""What the decoder does not tell: how much a video file claims to hold, and whether its frames were made up.

A second decoder, PyAV, is asked; it reads a header without reserving memory for what stands there, and marks frames
that it could not decode whole.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np

CONTAINERS = "mov,matroska,webm,avi,flv,asf,mpeg,mpegts,mpegvideo,m4v,h264,ogg"
"""What a file may be, by its content; playlists, which name other files and addresses, are never followed."""
MOST_PIXELS = 8192 * 4320
"""Of a frame: 8K."""
MOST_SECONDS = 24 * 3600
MOST_FRAMES = MOST_SECONDS * 120
BLANK_STEP = 8
"""Every eighth pixel of every eighth row tells whether a frame is blank."""
BLANK_RANGE = 2
"""Of 255: what the pixels of a blank frame may differ by."""

av.logging.set_level(av.logging.PANIC)


@dataclass(frozen=True)
class Extent:
    """How much there is to decode.

    Attributes:
        width, height: pixels of a frame.
        frames: how many; 0 if not told.
        seconds: how long they last; 0 if not told.
    """

    width: int
    height: int
    frames: int
    seconds: float

    def excess(self) -> str | None:
        """What exceeds its limit, in words; None if nothing does."""
        if self.width * self.height > MOST_PIXELS:
            return f"has frames of {self.width} x {self.height}, {MOST_PIXELS / 1e6:.0f} million pixels are allowed"
        if self.frames > MOST_FRAMES:
            return f"has {self.frames} frames, {MOST_FRAMES} are allowed"
        if self.seconds > MOST_SECONDS:
            return f"lasts {self.seconds:.0f} s, {MOST_SECONDS} s are allowed"
        return None


def read_extent(path: str | Path) -> Extent:
    """Read what the header says.

    Raises:
        av.FFmpegError: not one of `CONTAINERS`, or broken.
    """
    with open_video(path) as container:
        for stream in container.streams.video:
            if stream.codec_context is None:  # of no known codec, as the decoder will say
                continue
            seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            return Extent(stream.width, stream.height, stream.frames, seconds)
    return Extent(0, 0, 0, 0.0)


def is_blank(frame: np.ndarray) -> bool:
    """Whether a frame, uint8 (H, W, 3), is of one colour, as those are that a decoder makes up for lost ones."""
    grid = frame[::BLANK_STEP, ::BLANK_STEP].reshape(-1, 3)
    return bool((np.ptp(grid, axis=0) <= BLANK_RANGE).all())


def has_damage(path: str | Path, frames: int) -> bool:
    """Whether one of the first `frames` frames cannot be decoded whole."""
    try:
        with open_video(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            return any(frame.is_corrupt for frame in islice(container.decode(stream), frames))
    except (av.FFmpegError, IndexError, AttributeError):  # the last where there is no codec for it
        return True


def open_video(path: str | Path) -> av.container.InputContainer:
    """Open a file that is one of `CONTAINERS`.

    Raises:
        av.FFmpegError: it is not, or it is broken.
    """
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    return av.open(str(path), options=options, metadata_errors="replace")
