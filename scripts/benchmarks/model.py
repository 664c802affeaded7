"""The benchmarked model, and its arithmetic in a row."""

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import CLIP, HBI, CLIPConfig
from models.hbi_vqa import HBIVQA
from scripts.benchmarks.measure import Result, Row, measure_in_turns, seconds

SIZES = CLIPConfig(
    resolution=224, patch=32, vision_width=768, vision_layers=12, text_width=512, text_layers=12, embed_dim=512
)
"""CLIP ViT-B/32."""
PRODUCT = 2048


def random_model(answers: int = 0, patch: int | None = None, **options) -> HBI:
    """HBI on a ViT-B/32 of random weights, in evaluation mode; `patch` instead of 32, `answers` to answer questions."""
    clip = random_clip(patch)
    model = HBIVQA(clip, [str(answer) for answer in range(answers)], **options) if answers else HBI(clip, **options)
    return model.eval()


def random_clip(patch: int | None = None) -> CLIP:
    """ViT-B/32 of random weights, always the same; `patch` instead of 32."""
    torch.manual_seed(0)
    return CLIP(replace(SIZES, patch=patch or SIZES.patch))


def ragged_mask(count: int, positions: int, shortest: int) -> torch.Tensor:
    """Masks int64 (count, positions) of evenly spaced lengths, the same each time."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(count)
    lengths = torch.randint(shortest, positions + 1, (count, 1), generator=generator)
    return (torch.arange(positions) < lengths).long()


def random_frames(mask: torch.Tensor) -> torch.Tensor:
    """Packed frames uint8 (M, 3, R, R) for the ones of a mask."""
    return torch.randint(0, 256, (int(mask.sum()), 3, SIZES.resolution, SIZES.resolution), dtype=torch.uint8)


def measure_arithmetic(call: Callable[[], Result], repeats: int, dtype: torch.dtype) -> tuple[Result, Row]:
    """`measure_call`, with the arithmetic of matrix products and convolutions compared with the machine's peak.

    The peak is that of a square matrix product of `dtype`, the median of `repeats`, measured in turns. The row also has
    "GFLOP", "GFLOP/s" (of the median), "share of peak" and "peak GFLOP/s".
    """
    with FlopCounterMode(display=False) as counter:
        call()
    peaks = []
    calls = {"work": call, "product": lambda: peaks.append(peak_rate(dtype))}
    result, row = measure_in_turns(calls, repeats)["work"]
    work, peak = counter.get_total_flops(), statistics.median(peaks)
    rate = work / row["median s"]
    arithmetic = {"GFLOP": work / 1e9, "GFLOP/s": rate / 1e9, "share of peak": rate / peak, "peak GFLOP/s": peak / 1e9}
    return result, row | arithmetic


def peak_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product of two (2048, 2048), the best of nine."""
    square = torch.randn(PRODUCT, PRODUCT).to(dtype)
    return 2 * PRODUCT**3 / min(seconds(lambda: square @ square) for _ in range(9))
