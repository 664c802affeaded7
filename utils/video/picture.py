"""Pictures as they are shown: colours, square pixels, rotation, mirroring.

n pictures, H and W their height and width as shown.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter

from utils.video.stream import MAX_PIXELS

MAX_CLIP_PIXELS = 1 << 27
"""Maximum pixels of a clip, 12 frames of 4K; larger frames are scaled down while they are decoded."""
MIN_STRETCH, MAX_STRETCH = 1.01, 4
"""Pixels are stretched by factors in this range: smaller ones come from even sizes, larger ones from damage."""


class Canvas:
    """The frames of a clip, all in the size of the first one: `pictures`, uint8 (count, H, W, 3), RGB.

    `pixel_shape` is the width of a pixel divided by its height, None for square ones.
    """

    def __init__(self, pixel_shape: Fraction | None, count: int):
        self.pixel_shape, self.count, self.added = pixel_shape, count, 0
        self.pictures: np.ndarray | None = None
        self._reformatter = VideoReformatter()

    def add(self, frame: av.VideoFrame) -> None:
        """Convert the next frame."""
        if self.pictures is None:
            self._size = shown_size(frame, self.pixel_shape, MAX_CLIP_PIXELS // self.count)
            self._turn = Turn.of(frame)
        width, height = self._size
        picture = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
        )
        picture = self._turn(picture.to_ndarray())
        if self.pictures is None:
            self.pictures = np.empty((self.count, *picture.shape), np.uint8)
        self.pictures[self.added] = picture
        self.added += 1


def shown_size(frame: av.VideoFrame, pixel_shape: Fraction | None, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of a frame with square pixels, before rotation, within `max_pixels`."""
    width, height = frame.width, frame.height
    if pixel_shape and MIN_STRETCH <= max(pixel_shape, 1 / pixel_shape) <= MAX_STRETCH:
        width = max(round(width * pixel_shape), 1)
    if width * height > max_pixels:
        scale = (max_pixels / (width * height)) ** 0.5
        width, height = max(int(width * scale), 1), max(int(height * scale), 1)
    return width, height


@dataclass(frozen=True)
class Turn:
    """Rotation and mirroring: transpose, then reverse columns (mirror) and rows (flip)."""

    transpose: bool = False
    mirror: bool = False
    flip: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Turn":
        """The one nearest to a frame's display matrix (ISO 14496-12, 8.2.2: x' = a x + c y, y' = b x + d y)."""
        side_data: Any = frame.side_data  # PyAV's stub does not know that types are its keys
        matrix = side_data.get(Type.DISPLAYMATRIX)
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Rotate and mirror a picture (height, width, ...)."""
        picture = picture.swapaxes(0, 1) if self.transpose else picture
        return picture[:: -1 if self.flip else 1, :: -1 if self.mirror else 1]
