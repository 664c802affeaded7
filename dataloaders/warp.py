"""Shifts, shears and rotations of all frames of a clip at once, with PIL's bicubic sampling.

n frames of a clip, H and W their height and width.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

PART = 4
"""Frames that are sampled together: enough for vector instructions, few enough to stay in the processor's caches."""
REACH = 4
"""Pixels along an axis that a bicubic sample is made of."""
MARGIN = 2
"""How many of them may lie beyond an edge."""
CUT = 0.499
"""What rounding takes for cutting the decimals off, as PIL does; a little less than a half, so that 7 stays 7."""


class FrameStack:
    """The frames of a clip in the place of one PIL image, for functions that shift, shear or rotate it.

    Args:
        frames: uint8 (n, H, W, 3).
    """

    def __init__(self, frames: np.ndarray):
        self.frames = frames

    @property
    def size(self) -> tuple[int, int]:
        """W and H, PIL's order."""
        return self.frames.shape[2], self.frames.shape[1]

    def transform(
        self,
        size: tuple[int, int],
        method: Image.Transform,
        matrix: Sequence[float],
        resample: Image.Resampling,
        *,
        fillcolor: Sequence[int],
    ) -> np.ndarray:
        """`PIL.Image.Image.transform` of every frame, for affine bicubic transforms that keep the size."""
        if (size, method, resample) != (self.size, Image.Transform.AFFINE, Image.Resampling.BICUBIC):
            raise ValueError(f"not a bicubic affine transform to {self.size}: {size=}, {method=}, {resample=}")
        return warp(self.frames, matrix, fillcolor)

    def copy(self) -> np.ndarray:
        """The frames, as they are where there is nothing to rotate."""
        return self.frames

    rotate = Image.Image.rotate  # turns the angle into a matrix, and asks for `transform`


def warp(frames: np.ndarray, matrix: Sequence[float], fill: Sequence[int]) -> np.ndarray:
    """Move the pixels of every frame to other places, the same ones in all frames.

    As all frames are sampled at the same places with the same weights, a pixel is a row of a table that holds its
    values in all of them, and a weighted sum of rows gives the pixel of the result: `embedding_bag`, written for just
    that. 12 frames of 320 x 240 are shifted or sheared in 7 ms and rotated in 15 ms, where PIL takes 31 to 43 ms, and
    OpenCV, whose bicubic kernel is another one, 12 to 17 ms.

    Args:
        frames: uint8 (n, H, W, 3).
        matrix: (a, b, c, d, e, f): the result at x, y is the frame at a x + b y + c, d x + e y + f, pixels; the centre
            of the first pixel is at 0.5, 0.5.
        fill: (3,) the colour of what comes from outside the frame.

    Returns:
        uint8 (n, H, W, 3), equal to PIL's but for a difference of 1 in less than 1 % of the values.
    """
    height, width = frames.shape[1:3]
    place, weight = _samples(height, width, matrix)
    result = np.empty_like(frames)
    for start in range(0, len(frames), PART):
        part, target = frames[start : start + PART], result[start : start + PART]
        packed = cv2.copyMakeBorder(cv2.merge(list(part)), *[MARGIN] * 4, cv2.BORDER_REPLICATE)
        pixels = packed.shape[0] * packed.shape[1]
        table = torch.empty(pixels + REACH * packed.shape[1], packed.shape[2])
        table[:pixels] = torch.from_numpy(packed).flatten(0, 1)
        table[pixels:] = torch.tensor(fill).repeat(len(part))
        moved = F.embedding_bag(place, table, per_sample_weights=weight, mode="sum").numpy()
        moved = cv2.subtract(moved, CUT, dtype=cv2.CV_8U).reshape(height, width, -1)
        cv2.mixChannels([moved], list(target), np.arange(moved.shape[2]).repeat(2).tolist())
    return result


def _samples(height: int, width: int, matrix: Sequence[float]) -> tuple[Tensor, Tensor]:
    """What each pixel of the result is made of.

    Args:
        height: H.
        width: W.
        matrix: see `warp`.

    Returns:
        int32 (H W, K), numbers of pixels of a frame with a margin of `MARGIN` around it and `REACH` rows of the fill
        colour below; float32 (H W, K), their weights.
    """
    a, b, c, d, e, f = matrix
    x, y = torch.arange(width) + 0.5, torch.arange(height).unsqueeze(1) + 0.5
    x, y = a * x + b * y + c, d * x + e * y + f  # (H, W)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    column, beside, across = _neighbours(x, width)
    row, below, down = _neighbours(y, height)
    wide = width + 2 * MARGIN
    place = row * wide + column
    place.masked_fill_(outside, (height + 2 * MARGIN + 1) * wide + 1)  # all neighbours of this one have the fill colour
    place = place.view(-1, 1) + (below.unsqueeze(1) * wide + beside).flatten()
    weight = (down.unsqueeze(1) * across).expand(-1, -1, height, width).flatten(0, 1)  # (K, H, W)
    return place, torch.from_numpy(cv2.merge(list(weight.numpy()))).view_as(place)


def _neighbours(place: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels of one axis that a bicubic sample is made of.

    Args:
        place: (H, W), where the sample is.
        size: pixels of the axis.

    Returns:
        int32 (H, W), the nearest pixel below it, counted with the margin; int32 (k,), which pixels from there on;
        (k, H, W), their weights, Keys' with a = -1. k is `REACH`; where all samples are right at pixels it is 1, and
        the weight (1, 1, 1).
    """
    place = place - 0.5
    first = place.floor()
    t = place - first
    first = first.clamp_(-1, size - 1).int() + MARGIN  # what lies outside is of no account
    if not t.any():
        return first, torch.zeros(1, dtype=torch.int32), torch.ones(1, 1, 1)
    bend = t * (t - 1)
    last = t * bend
    weight = torch.stack([bend - last, 1 - t - bend + last, t - last, last])
    return first, torch.arange(REACH, dtype=torch.int32) - 1, weight
