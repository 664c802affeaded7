"""Frames of a clip from a video file or the frame cache, augmented and resized.

n frames of a clip, H and W their height and width, R CLIP's resolution.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataloaders.frame_cache import FrameCache
from utils.video.decode import DECODER, decode_clip


def read_clip(
    path: str | Path,
    transform: Callable[[np.ndarray], torch.Tensor],
    *,
    augment: Callable[[np.ndarray], np.ndarray] | None = None,
    cache: FrameCache | None = None,
    decode: Callable[..., np.ndarray] | None = None,
    **sampling: Any,
) -> torch.Tensor:
    """Read the sampled frames of a clip; `sampling` are fields of `utils.video.positions.Sampling`.

    Args:
        path: a video file.
        transform: uint8 (n, H, W, 3) -> uint8 (n, 3, R, R); with a cache its `repr` must describe it completely.
        augment: uint8 (n, H, W, 3) -> the same, before `transform`.
        cache: keeps the transformed frames, or those before an augmentation.
        decode: in place of `decode_clip`.
        **sampling: see above.
    """
    make = partial(decode or decode_clip, path, **sampling)
    if cache is None:
        return transform(make() if augment is None else augment(make()))
    settings = {"decoder": DECODER, **sampling}
    if augment is not None:
        return transform(augment(cache.get(Path(path), settings, make)))
    settings["transform"] = repr(transform)
    frames = cache.get(Path(path), settings, lambda: transform(make()).permute(0, 2, 3, 1).numpy())  # (n, R, R, 3)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
