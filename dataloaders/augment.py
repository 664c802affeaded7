"""RandAugment of training clips, on uint8 frames.

n frames of a clip, H and W their height and width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from timm.data.auto_augment import AugmentOp, rand_augment_transform

from dataloaders.opencv import cv2
from utils.errors import InputError

FILL_GREY = (128, 128, 128)
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # PIL's ImageFilter.SMOOTH, from which it sharpens
UNCHANGED = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
LUMINANCE = np.array([0.299, 0.587, 0.114])


class RandAugment:
    """RandAugment (arXiv 1909.13719) with one draw for all frames of a clip.

    timm's parser, operations and random draws (from `random` and numpy), on clips in place of images. Slow operations
    of PIL run in OpenCV, bicubic as published: results differ from timm's by one or two levels, and by more at sharp
    edges that are rotated or sheared, where the two use other cubics. The default is the published setting: 4
    operations, each applied with probability 0.5, magnitude normal(7, 0.5) of 10.
    """

    def __init__(self, config: str = "rand-m7-n4-mstd0.5-inc1"):
        options = {"img_mean": FILL_GREY, "interpolation": Image.Resampling.BICUBIC}
        try:
            self.transform = rand_augment_transform(config, options)
        except (AssertionError, KeyError, ValueError) as error:
            raise InputError(f"{config!r}: is no RandAugment setting; write it like rand-m7-n4-mstd0.5-inc1") from error
        for operation in self.transform.ops:
            operation.aug_fn = _on_clips(operation)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Apply one draw to every frame, uint8 (n, H, W, 3), RGB."""
        return self.transform(frames)


def _on_clips(operation: AugmentOp) -> Callable[..., np.ndarray]:
    """Lift an operation on an image to the frames of a clip."""
    if operation.name.startswith(("Rotate", "Shear", "Translate")):
        return partial(_move, operation.aug_fn)
    if operation.name.startswith(("Invert", "Posterize", "Solarize", "Brightness")):
        return partial(_look_up, operation.aug_fn)
    enhanced = {"Color": _saturate, "Contrast": _contrast, "Sharpness": _sharpen}
    return enhanced.get(operation.name.removesuffix("Increasing")) or partial(_each_frame, operation.aug_fn)


def _each_frame(
    operation: Callable[..., Image.Image], frames: np.ndarray, *arguments: Any, **options: Any
) -> np.ndarray:
    """Apply an operation on whole images."""
    return np.stack([np.asarray(operation(Image.fromarray(frame), *arguments, **options)) for frame in frames])


def _look_up(operation: Callable[..., Image.Image], frames: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
    """Apply an operation on single values by a table of all 256."""
    values = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2))
    table = np.array(operation(values, *arguments, **options))[0, :, 0]
    return cv2.LUT(frames.reshape(-1, *frames.shape[2:]), table).reshape(frames.shape)


def _saturate(frames: np.ndarray, factor: float, **_: Any) -> np.ndarray:
    """Interpolate between the grey frame (factor 0) and the frame (1), or extrapolate."""
    mixed = factor * np.eye(3) + (1 - factor) * LUMINANCE
    return cv2.transform(frames.reshape(-1, *frames.shape[2:]), mixed).reshape(frames.shape)


def _contrast(frames: np.ndarray, factor: float, **_: Any) -> np.ndarray:
    """Interpolate between the frame's mean grey (factor 0) and the frame (1), or extrapolate."""
    changed = np.empty_like(frames)
    for target, frame in zip(changed, frames, strict=True):
        grey = round(LUMINANCE @ cv2.mean(frame)[:3])
        cv2.transform(frame, np.column_stack([factor * np.eye(3), [(1 - factor) * grey] * 3]), dst=target)
    return changed


def _sharpen(frames: np.ndarray, factor: float, **_: Any) -> np.ndarray:
    """Interpolate between the smoothed frame (factor 0) and the frame (1), or extrapolate."""
    return _filter(frames, factor * UNCHANGED + (1 - factor) * SMOOTH)


def _move(operation: Callable[..., np.ndarray], frames: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
    """Apply an operation that moves pixels."""
    return operation(_Movable(frames), *arguments, **options)


class _Movable:
    """The frames of a clip with the interface that timm's and PIL's geometry needs of an image."""

    rotate = Image.Image.rotate

    def __init__(self, frames: np.ndarray):
        self.frames = frames
        self.height, self.width = frames.shape[1:3]
        self.size = self.width, self.height

    def copy(self) -> np.ndarray:
        return self.frames

    def transform(
        self, size: tuple[int, int], method: int, matrix: Sequence[float], resample: int, fillcolor: Sequence[int]
    ) -> np.ndarray:
        """Sample the frames under an affine map, of which `matrix` holds the first two rows."""
        matrix = np.reshape(matrix, (2, 3)) @ [[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]] - [[0, 0, 0.5]]
        if np.array_equal(matrix[:, :2], np.eye(2)):
            return _translate(self.frames, *matrix[:, 2], fillcolor)
        moved = np.empty_like(self.frames)
        options = {"flags": cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_CONSTANT}
        for target, frame in zip(moved, self.frames, strict=True):
            cv2.warpAffine(frame, matrix, size, dst=target, borderValue=fillcolor, **options)
        return moved


def _translate(frames: np.ndarray, right: float, down: float, fill: Sequence[int]) -> np.ndarray:
    """Sample the frames at an offset of `right` and `down` pixels: a filter for the fraction, then whole pixels."""
    whole_x, whole_y = round(right), round(down)
    filtered = _filter(frames, np.outer(_cubic(down - whole_y), _cubic(right - whole_x)))
    above, left, below, behind = (max(pixels, 0) for pixels in (-whole_y, -whole_x, whole_y, whole_x))
    height, width = frames.shape[1:3]
    kept = filtered[:, below : height - above, behind : width - left]
    moved = np.empty_like(frames)
    for target, frame in zip(moved, kept, strict=True):
        cv2.copyMakeBorder(frame, above, below, left, behind, cv2.BORDER_CONSTANT, dst=target, value=fill)
    return moved


def _cubic(fraction: float) -> np.ndarray:
    """PIL's cubic: weights of five pixels for a sample at an offset of -0.5 to 0.5 pixels."""
    distance = abs(np.arange(-2, 3) - fraction)
    near, far = (distance - 2) * distance**2 + 1, ((5 - distance) * distance - 8) * distance + 4
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _filter(frames: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate every frame with a kernel; the border is repeated."""
    filtered = np.empty_like(frames)
    for target, frame in zip(filtered, frames, strict=True):
        cv2.filter2D(frame, -1, kernel, dst=target, borderType=cv2.BORDER_REPLICATE)
    return filtered
