"""Similarity of every text with every video on random tokens of ragged lengths, in float32 and bfloat16."""

from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from scripts.benchmarks.measure import Row, count
from scripts.benchmarks.model import measure_arithmetic, ragged_mask, random_model
from utils.devices import PRECISIONS
from utils.plots import lines


def add_arguments(parser: ArgumentParser) -> None:
    """Sizes of the sets."""
    parser.add_argument("--sizes", type=count, nargs="+", default=[1000], help="texts, and as many videos")
    parser.add_argument("--precisions", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"], help="dtypes")
    parser.add_argument("--words", type=count, default=24, help="positions of a text, a quarter or more of them valid")
    parser.add_argument("--frames", type=count, default=12, help="positions of a video, half or more of them valid")
    parser.add_argument("--repeats", type=count, default=5, help="runs")
    parser.add_argument("--plot", type=Path, help="picture of the seconds over the pairs")


@torch.inference_mode()
def measure(
    sizes: Sequence[int], precisions: Sequence[str], words: int, frames: int, repeats: int, plot: Path | None
) -> list[Row]:
    """Seconds, megabytes ("peak MB" with the result's) and arithmetic.

    "same top-1" is the share of texts with the best video of the first precision.

    Args:
        sizes: texts, and as many videos.
        precisions: of the matrix products.
        words: positions of a text.
        frames: positions of a video.
        repeats: runs.
        plot: where a picture goes, if anywhere.
    """
    model = random_model(temporal=None)
    rows = {precision: [] for precision in precisions}
    for size in sizes:
        masks = ragged_mask(size, words, max(words // 4, 1)), ragged_mask(size, frames, max(frames // 2, 1))
        text, video = ((torch.randn(*mask.shape, model.clip.config.embed_dim), mask) for mask in masks)
        best = None
        for precision in precisions:
            dtype = PRECISIONS[precision]
            sim, row = measure_arithmetic(partial(model.similarity, text, video, dtype=dtype), repeats, dtype)
            best = sim.argmax(dim=1) if best is None else best
            row["result MB"] = sim.nbytes / 2**20
            agreement = (sim.argmax(dim=1) == best).float().mean().item()
            rows[precision].append(
                {"case": f"{size} x {size}, {precision}", **row, "same top-1": agreement, "pairs": size**2}
            )
    if plot:
        axes = "pairs", "median s"
        lines(plot, {name: [[row[axis] for row in some] for axis in axes] for name, some in rows.items()}, labels=axes)
    return [row for some in rows.values() for row in some]
