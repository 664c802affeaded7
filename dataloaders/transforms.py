"""CLIP's preprocessing and the augmentation of training clips, on uint8 frames.

n frames of a clip, H and W their height and width, R CLIP's resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import utils.torchvision_import  # noqa: F401  before timm

# isort: split
import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from utils.errors import InputError

FILL_GREY = (128, 128, 128)


@dataclass(frozen=True)
class ClipTransform:
    """CLIP's preprocessing up to the normalisation: bicubic resize of the short side, centre crop.

    It runs on PIL images, as published, so that uint8 loses nothing. torchvision's operators on a batch of tensors
    are several times as fast, but differ from PIL in 0.2 % of the values by up to 2 levels.

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
        height, width = frames.shape[1:3]
        size, short = self.resolution, min(height, width)
        wide, high = (size if side == short else int(size * side / short) for side in (width, height))
        left, top = (round((side - size) / 2) for side in (wide, high))
        clip = torch.empty(len(frames), 3, size, size, dtype=torch.uint8)
        for target, frame in zip(clip, frames, strict=True):
            # PIL scales rows, then columns; in between it can do without the columns that are not kept.
            image = Image.fromarray(frame).resize((wide, height), Image.Resampling.BICUBIC)
            image = image.crop((left, 0, left + size, height)).resize((size, high), Image.Resampling.BICUBIC)
            target.copy_(torch.from_numpy(np.array(image)[top : top + size]).permute(2, 0, 1))
        return clip


class RandAugment:
    """RandAugment (arXiv 1909.13719) with one draw for all frames of a clip.

    timm's parser, operations and random draws, on a list of frames in place of an image: operations, whether each is
    applied, magnitude and sign are drawn once. Draws come from the generators of `random` and numpy. torchvision's
    operations on a batch of tensors do without the published bicubic sampling, so they are no substitute.

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
            operation.aug_fn = partial(_each_frame, operation.aug_fn)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Apply one draw to every frame.

        Args:
            frames: uint8 (n, H, W, 3), RGB.

        Returns:
            uint8 (n, H, W, 3).
        """
        return np.stack(self.transform([Image.fromarray(frame) for frame in frames]))


def _each_frame(
    operation: Callable[..., Image.Image], images: list[Image.Image], *arguments, **options
) -> list[Image.Image]:
    """Apply an operation on one image to a list of them, with the same arguments."""
    return [operation(image, *arguments, **options) for image in images]
