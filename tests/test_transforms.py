"""CLIP's preprocessing against PIL, and RandAugment: one draw a clip, timm's own draw for one frame."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torchvision import transforms

from dataloaders.transforms import ClipTransform, RandAugment
from utils.errors import InputError


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def seed_draws(seed):
    random.seed(seed)
    np.random.seed(seed)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 101), (20, 17), (32, 32), (32, 57), (7, 90)])
def test_preprocessing_equals_pil(size):
    frames = noise(2, *size)
    published = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
        ]
    )
    clip = ClipTransform(32)(frames)
    assert clip.dtype == torch.uint8
    assert clip.is_contiguous()
    assert torch.equal(clip / 255, torch.stack([published(frame) for frame in frames]))


def test_short_side_and_crop_by_hand():
    frames = noise(1, 40, 80)
    small = np.array(Image.fromarray(frames[0]).resize((64, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(ClipTransform(32)(frames)[0].permute(1, 2, 0), small[:, 16:48])


def test_all_frames_of_a_clip_get_the_same_operations():
    frame = noise(1, 24, 32)
    augment = RandAugment()
    seed_draws(0)
    changed = 0
    for _ in range(60):
        clip = augment(frame.repeat(3, axis=0))
        assert clip.shape == (3, 24, 32, 3)
        assert clip.dtype == np.uint8
        assert (clip == clip[:1]).all()
        changed += not np.array_equal(clip[0], frame[0])
    assert changed > 40


def test_draws_differ_between_clips_and_repeat_with_the_seed():
    frames = noise(2, 24, 32)
    augment = RandAugment()
    runs = []
    for seed in (0, 0, 1):
        seed_draws(seed)
        runs.append(np.stack([augment(frames) for _ in range(10)]))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert len(np.unique(runs[0].reshape(10, -1), axis=0)) > 5


def test_draws_are_timms_on_one_frame():
    frames = noise(1, 24, 32)
    options = {"img_mean": (128, 128, 128), "interpolation": Image.Resampling.BICUBIC}
    reference = rand_augment_transform("rand-m7-n4-mstd0.5-inc1", options)
    augment = RandAugment()
    for seed in range(30):
        seed_draws(seed)
        expected = np.array(reference(Image.fromarray(frames[0])))
        seed_draws(seed)
        assert np.array_equal(augment(frames)[0], expected)


def test_published_setting():
    augment = RandAugment().transform
    assert augment.num_layers == 4
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in augment.ops} == {(0.5, 7, 0.5)}
    names = "AutoContrast Equalize Invert Rotate PosterizeIncreasing SolarizeIncreasing SolarizeAdd ColorIncreasing "
    names += "ContrastIncreasing BrightnessIncreasing SharpnessIncreasing ShearX ShearY TranslateXRel TranslateYRel"
    assert [op.name for op in augment.ops] == names.split()


def test_what_is_moved_in_is_grey():
    augment = RandAugment()
    (shear,) = (op for op in augment.transform.ops if op.name == "ShearX")
    (image,) = shear.aug_fn([Image.fromarray(np.zeros((32, 32, 3), np.uint8))], 0.3, **shear.kwargs)
    assert (np.array(image) == 128).any()


def test_worker_processes_can_receive_it():
    frames = noise(2, 24, 32)
    augment = RandAugment()
    copy = pickle.loads(pickle.dumps(augment))
    seed_draws(3)
    expected = augment(frames)
    seed_draws(3)
    assert np.array_equal(copy(frames), expected)


@pytest.mark.parametrize("config", ["", "augmix-m3", "rand-z9", "rand-m7-nx1"])
def test_unknown_setting_is_refused(config):
    with pytest.raises(InputError, match="no RandAugment setting"):
        RandAugment(config)
