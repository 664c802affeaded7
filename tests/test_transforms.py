"""CLIP's preprocessing against PIL, bit by bit and all frames at once."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from utils.video.transforms import ClipTransform


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 101), (20, 17), (32, 32), (32, 57), (7, 90)])
def test_exact_preprocessing_equals_pil(size):
    frames = noise(2, *size)
    published = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
        ]
    )
    clip = ClipTransform(32, exact=True)(frames)
    assert clip.dtype == torch.uint8
    assert clip.is_contiguous()
    assert torch.equal(clip / 255, torch.stack([published(frame) for frame in frames]))


def test_short_side_and_crop_by_hand():
    frames = noise(1, 40, 80)
    small = np.array(Image.fromarray(frames[0]).resize((64, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(ClipTransform(32, exact=True)(frames)[0].permute(1, 2, 0), small[:, 16:48])


@pytest.mark.parametrize("size", [(240, 320), (128, 128), (33, 101), (20, 17), (32, 57), (720, 1280)])
def test_all_frames_at_once_are_within_two_levels(size):
    frames = noise(3, *size)
    clip = ClipTransform(32)(frames)
    assert clip.shape == (3, 3, 32, 32)
    assert clip.is_contiguous()
    difference = (clip.int() - ClipTransform(32, exact=True)(frames).int()).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.01


def test_frames_of_the_models_size_are_only_cropped():
    frames = noise(2, 32, 50)
    for exact in (False, True):
        assert np.array_equal(ClipTransform(32, exact)(frames).permute(0, 2, 3, 1), frames[:, :, 9:41])
