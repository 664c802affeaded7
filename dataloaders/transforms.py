"""CLIP's preprocessing and the augmentation of training clips, on uint8 frames.

n frames of a clip, H and W their height and width, R CLIP's resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import utils.torchvision_import  # noqa: F401  before torchvision and timm

# isort: split
import cv2
import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

from dataloaders.warp import CUT, FrameStack
from utils.errors import InputError

FILL_GREY = (128, 128, 128)
MOVES = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel"}
"""timm's operations that put pixels elsewhere."""
PIXELWISE = ("Invert", "Posterize", "Solarize", "Color", "Brightness")
"""Beginnings of the names of those that change each pixel for itself."""
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
"""The kernel of PIL's sharpness."""


@dataclass(frozen=True)
class ClipTransform:
    """CLIP's preprocessing up to the normalisation: bicubic resize of the short side, centre crop.

    It is PIL's, as published, on PyTorch's vectorised uint8 kernel, whose weights have 16 bits where PIL's have 22:
    0.2 to 0.7 % of the values differ, by up to 2 levels of 255. 12 frames of 320 x 240 to 224 take 3 ms against PIL's
    15 ms, where decoding takes 43 ms.

    Args:
        resolution: R, pixels.
    """

    resolution: int

    def __call__(self, frames: np.ndarray) -> Tensor:
        """Resize and crop.

        Args:
            frames: uint8 (n, H, W, 3), RGB.

        Returns:
            uint8 (n, 3, R, R), contiguous.
        """
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (n, 3, H, W)
        clip = resize(clip, [self.resolution], InterpolationMode.BICUBIC, antialias=True)
        return center_crop(clip, [self.resolution, self.resolution]).contiguous()


class RandAugment:
    """RandAugment (arXiv 1909.13719) with one draw for all frames of a clip.

    timm's parser, operations and random draws, on a clip in place of an image: operations, whether each is applied,
    magnitude and sign are drawn once. Draws come from the generators of `random` and numpy. Colours are PIL's work;
    what moves is sampled by `dataloaders.warp`, which takes a fourth of PIL's time.

    Args:
        config: timm's notation; the default is the published setting: 4 operations, each applied with probability 0.5,
            magnitude normal(7, 0.5) of 10.

    Raises:
        InputError: timm cannot parse `config`.
    """

    def __init__(self, config: str = "rand-m7-n4-mstd0.5-inc1"):
        options = {"img_mean": FILL_GREY, "interpolation": Image.Resampling.BICUBIC}
        try:
            self.transform = rand_augment_transform(config, options)
        except (AssertionError, KeyError, ValueError) as error:
            raise InputError(f"{config!r}: is no RandAugment setting; write it like rand-m7-n4-mstd0.5-inc1") from error
        for operation in self.transform.ops:
            operation.aug_fn = _for_clips(operation.name, operation.aug_fn)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Apply one draw to every frame.

        Args:
            frames: uint8 (n, H, W, 3), RGB.

        Returns:
            uint8 (n, H, W, 3).
        """
        return self.transform(frames)


def _for_clips(name: str, operation: Callable[..., Image.Image]) -> Callable[..., np.ndarray]:
    """What does to every frame of a clip what timm's operation of this name does to an image."""
    if name in MOVES:
        return partial(_all_frames, operation)
    if name.startswith("Sharpness"):
        return sharpen
    if name.startswith(PIXELWISE):
        return partial(_one_image, operation)
    return partial(_each_frame, operation)


def _all_frames(operation: Callable[..., np.ndarray], frames: np.ndarray, *arguments, **options) -> np.ndarray:
    """Apply an operation that moves pixels to all frames at once."""
    return operation(FrameStack(frames), *arguments, **options)


def _one_image(operation: Callable[..., Image.Image], frames: np.ndarray, *arguments, **options) -> np.ndarray:
    """Apply an operation on single pixels to all frames, one below another."""
    column = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    return np.array(operation(column, *arguments, **options)).reshape(frames.shape)


def _each_frame(operation: Callable[..., Image.Image], frames: np.ndarray, *arguments, **options) -> np.ndarray:
    """Apply an operation to every frame, with the same arguments."""
    changed = np.empty_like(frames)
    for frame, target in zip(frames, changed, strict=True):
        target[:] = operation(Image.fromarray(frame), *arguments, **options)
    return changed


def sharpen(frames: np.ndarray, factor: float, **_) -> np.ndarray:
    """Sharpen every frame (n, H, W, 3) as PIL's `ImageEnhance.Sharpness` does, in a fourth of its time.

    Args:
        frames: uint8 (n, H, W, 3).
        factor: 0 for smoothed frames, 1 for the same ones, above for sharper ones.

    Returns:
        uint8 (n, H, W, 3).
    """
    sharpened = np.empty_like(frames)
    for frame, target in zip(frames, sharpened, strict=True):
        smooth = cv2.filter2D(frame, -1, SMOOTH)
        for edge in (np.s_[[0, -1]], np.s_[:, [0, -1]]):  # these PIL does not smooth
            smooth[edge] = frame[edge]
        cv2.addWeighted(frame, factor, smooth, 1 - factor, -CUT, dst=target)
    return sharpened
