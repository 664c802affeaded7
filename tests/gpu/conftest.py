"""Checks on a GPU; `HBI_TEST_DEVICE=cpu` runs those that need none, in small sizes."""

import os
from collections.abc import Callable

import pytest
import torch

from models import CLIP, HBI, HBIVQA
from models.tokenizer import Tokenizer
from scripts.benchmarks.model import SIZES
from tests.conftest import SMALL
from utils.devices import set_precision
from utils.engine.builders import build_optimizer
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer

DEVICE = torch.device(os.environ.get("HBI_TEST_DEVICE", "cuda"))
ON_CUDA = DEVICE.type == "cuda"
CLIP_SIZES = SIZES if ON_CUDA else SMALL
WORDS = ("a", "red", "blue", "big", "circle", "star", "moves", "left", "then", "spins")


SKIP = pytest.mark.skip(reason="needs a GPU; bash scripts/test_gpu.sh --device cpu runs it small")


def pytest_collection_modifyitems(items):
    """Mark the tests of this folder, and skip them if the device is missing."""
    for item in items:
        if "gpu" in item.path.parts:
            item.add_marker(pytest.mark.gpu)
            if ON_CUDA and not torch.cuda.is_available():
                item.add_marker(SKIP)


needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="measures a GPU")


@pytest.fixture(autouse=True)
def ieee_floats():
    """Each test begins and ends with exact products, as a run of --precision fp32."""
    set_precision("fp32", DEVICE)
    yield
    set_precision("fp32", DEVICE)


def build(answers: int = 0, **options) -> HBI:
    """A model of random weights, the same on every device."""
    torch.manual_seed(0)
    clip = CLIP(CLIP_SIZES)
    if answers:
        return HBIVQA(clip, [str(answer) for answer in range(answers)], **options)
    return HBI(clip, **options)


def batch(pairs: int = 8, words: int = 24, frames: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    """Ragged captions and packed frames; the shortest text has one word and the shortest clip one frame."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, min(words - 2, 16), (pairs,), generator=draw)
    lengths[0] = 1
    captions = [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (int(n),), generator=draw)) for n in lengths
    ]
    ids, text_mask = Tokenizer()(captions, words)
    counts = torch.randint(1, frames + 1, (pairs, 1), generator=draw)
    counts[-1] = 1
    video_mask = (torch.arange(frames) < counts).long()
    shape = (int(video_mask.sum()), 3, CLIP_SIZES.resolution, CLIP_SIZES.resolution)
    pixels = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    data = {"ids": ids, "text_mask": text_mask, "frames": pixels, "video_mask": video_mask}
    return data | {"video_ids": torch.arange(pairs)}


def trainer(model: HBI, device: torch.device = DEVICE, **options) -> Trainer:
    """Training of a model on a device."""
    options = TrainingOptions(**options)
    model.to(device).train()
    return Trainer(model, build_optimizer(model, options, total_steps=100), device=device, options=options)


def median_seconds(call: Callable[[], object], repeats: int = 10) -> float:
    """Median time of a call on the GPU."""
    times = []
    for _ in range(repeats):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        call()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) / 1000)
    return sorted(times)[repeats // 2]
