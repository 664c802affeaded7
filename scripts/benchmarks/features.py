"""Frame tokens of a batch of videos, by a ViT-B/32 of random weights."""

from argparse import ArgumentParser

import torch

from scripts.benchmarks.measure import Row, count
from scripts.benchmarks.model import measure_arithmetic, random_frames, random_model
from utils.devices import PRECISIONS, autocast
from utils.engine.builders import compile_towers


def add_arguments(parser: ArgumentParser) -> None:
    """Sizes of the batch."""
    parser.add_argument("--videos", type=count, default=8, help="videos of a batch")
    parser.add_argument("--frames", type=count, default=12, help="frames of a video")
    parser.add_argument("--compile", dest="compiled", action="store_true", help="compile the blocks of the towers")
    parser.add_argument("--repeats", type=count, default=5, help="runs")


@torch.inference_mode()
def measure(videos: int, frames: int, compiled: bool, repeats: int) -> list[Row]:
    """Seconds, megabytes and arithmetic in each precision; "videos/s" by the median.

    Args:
        videos: videos of a batch.
        frames: frames of a video.
        compiled: compile the blocks of the towers.
        repeats: runs.
    """
    model = random_model(temporal=None)
    if compiled:
        compile_towers(model)
    mask = torch.ones(videos, frames, dtype=torch.int64)
    pixels = random_frames(mask)

    def encode(precision: str) -> torch.Tensor:
        with autocast(model.device, precision):
            return model.frame_tokens(pixels, mask)

    rows = []
    for precision in ("fp32", "bf16"):
        _, row = measure_arithmetic(lambda chosen=precision: encode(chosen), repeats, PRECISIONS[precision])
        rows.append({"case": precision, **row, "videos/s": videos / row["median s"]})
    return rows
