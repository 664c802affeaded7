"""RandAugment on clips: timm's draws for all frames alike, and operations that agree with timm's on PIL images."""

import pickle
import random

import cv2
import numpy as np
import pytest
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from dataloaders.augment import RandAugment
from utils.errors import InputError

OPTIONS = {"img_mean": (128, 128, 128), "interpolation": Image.Resampling.BICUBIC}


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def waves(count, height, width):
    """Smooth frames, each another, with all levels in them."""
    y, x, number = np.ogrid[:height, :width, :count]
    phases = x / 9 + y / 13 + number + np.arange(3)[:, None, None, None]
    return np.round(127.5 + 127.5 * np.sin(phases)).astype(np.uint8).transpose(3, 1, 2, 0).copy()


def spread(marked):
    """A mask (H, W) grown by three pixels all around."""
    return cv2.dilate(marked.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)


def seed_draws(seed):
    random.seed(seed)
    np.random.seed(seed)


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


# How far from timm an operation may be: the mean and the largest difference in levels, away from the border.
EXACT, ROUNDED, RESAMPLED = (0, 0), (0.6, 2), (0.8, 8)
DISTANCES = {
    "AutoContrast": EXACT,
    "Equalize": EXACT,
    "Invert": EXACT,
    "PosterizeIncreasing": EXACT,
    "SolarizeIncreasing": EXACT,
    "SolarizeAdd": EXACT,
    "BrightnessIncreasing": EXACT,
    "ColorIncreasing": ROUNDED,
    "ContrastIncreasing": ROUNDED,
    "SharpnessIncreasing": ROUNDED,
    "TranslateXRel": ROUNDED,
    "TranslateYRel": ROUNDED,
    "Rotate": RESAMPLED,
    "ShearX": RESAMPLED,
    "ShearY": RESAMPLED,
}


@pytest.mark.parametrize("name", DISTANCES)
def test_operations_are_close_to_timms(name):
    frames = waves(3, 60, 80)
    reference, augment = rand_augment_transform("rand-m7-n4-mstd0.5-inc1", OPTIONS), RandAugment().transform
    theirs, ours = (next(op for op in transform.ops if op.name == name) for transform in (reference, augment))
    theirs.prob = ours.prob = 1
    mean, largest = DISTANCES[name]
    for seed in range(8):
        seed_draws(seed)
        changed = ours(frames)
        assert changed.dtype == np.uint8
        expected = []
        for frame in frames:
            seed_draws(seed)
            expected.append(np.array(theirs(Image.fromarray(frame))))
        grey = (np.array(expected) == 128).all(axis=3) | (changed == 128).all(axis=3)
        difference = np.abs(changed.astype(int) - expected)[:, 2:-2, 2:-2]
        beside_fill = np.stack([spread(image) for image in grey])[:, 2:-2, 2:-2]
        if name.startswith(("Rotate", "Shear")):
            difference = difference[~beside_fill]
        assert difference.size > frames.size / 4
        assert difference.mean() <= mean
        assert difference.max() <= largest


def test_a_whole_draw_is_close_to_timms():
    frames = waves(2, 60, 80)
    reference, augment = rand_augment_transform("rand-m7-n4-mstd0.5-inc1", OPTIONS), RandAugment()
    unlike = 0
    for seed in range(40):
        seed_draws(seed)
        expected = np.array(reference(Image.fromarray(frames[0])))
        seed_draws(seed)
        unlike += np.abs(augment(frames)[0].astype(int) - expected).mean() > 4
    assert unlike <= 4  # small differences grow where an equalisation follows


def test_published_setting():
    augment = RandAugment().transform
    assert augment.num_layers == 4
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in augment.ops} == {(0.5, 7, 0.5)}
    names = "AutoContrast Equalize Invert Rotate PosterizeIncreasing SolarizeIncreasing SolarizeAdd ColorIncreasing "
    names += "ContrastIncreasing BrightnessIncreasing SharpnessIncreasing ShearX ShearY TranslateXRel TranslateYRel"
    assert [op.name for op in augment.ops] == names.split()


@pytest.mark.parametrize(
    ("name", "amount"), [("ShearX", 0.3), ("Rotate", 20), ("TranslateXRel", 0.2), ("TranslateYRel", -0.2)]
)
def test_what_is_moved_in_is_grey(name, amount):
    (operation,) = (op for op in RandAugment().transform.ops if op.name == name)
    frames = operation.aug_fn(np.zeros((2, 32, 32, 3), np.uint8), amount, **operation.kwargs)
    assert (frames == 0).any()
    assert (frames == 128).mean() > 0.05


def test_whole_pixels_are_moved_as_they_are():
    (operation,) = (op for op in RandAugment().transform.ops if op.name == "TranslateXRel")
    frames = noise(2, 20, 40)
    moved = operation.aug_fn(frames, 0.25, **operation.kwargs)
    assert np.array_equal(moved[:, :, :30], frames[:, :, 10:])
    assert (moved[:, :, 30:] == 128).all()


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
