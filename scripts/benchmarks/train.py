"""One training step of HBI on a ViT-B/32 of random weights: forward, backward, clipping, optimiser."""

import resource
from argparse import ArgumentParser
from functools import partial

import torch

from scripts.benchmarks.measure import Row, count
from scripts.benchmarks.model import measure_arithmetic, ragged_mask, random_frames, random_model
from utils.devices import PRECISIONS
from utils.engine.builders import build_optimizer, compile_towers, save_memory
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer


def add_arguments(parser: ArgumentParser) -> None:
    """The batch and the way of training."""
    parser.add_argument("--pairs", type=count, default=8, help="pairs of a batch")
    parser.add_argument("--words", type=count, default=24, help="positions of a text, a quarter or more of them valid")
    parser.add_argument("--frames", type=count, default=12, help="frames of each video")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the forward pass")
    parser.add_argument("--grad_checkpointing", action="store_true", help="less memory for more time")
    parser.add_argument("--compile", dest="compiled", action="store_true", help="compile the blocks of the towers")
    parser.add_argument("--repeats", type=count, default=1, help="runs")


def measure(
    pairs: int, words: int, frames: int, precision: str, grad_checkpointing: bool, compiled: bool, repeats: int
) -> list[Row]:
    """Seconds, megabytes and arithmetic; "process MB" is the peak memory of the process.

    Args:
        pairs: of a batch.
        words: positions of a text.
        frames: of each video.
        precision: of the forward pass.
        grad_checkpointing: activation checkpointing.
        compiled: compile the blocks of the towers.
        repeats: runs.
    """
    model = random_model(teacher="exact").train()
    save_memory(model, grad_checkpointing)
    if compiled:
        compile_towers(model)
    options = TrainingOptions(precision=precision)
    trainer = Trainer(model, build_optimizer(model, options, total_steps=100), device=model.device, options=options)
    text_mask, video_mask = ragged_mask(pairs, words, max(words // 4, 1)), torch.ones(pairs, frames, dtype=torch.int64)
    batch = {
        "ids": torch.randint(1, model.clip.config.vocabulary, text_mask.shape) * text_mask,
        "text_mask": text_mask,
        "frames": random_frames(video_mask),
        "video_mask": video_mask,
        "video_ids": torch.arange(pairs),
    }
    _, row = measure_arithmetic(partial(trainer.step, batch, update=True), repeats, PRECISIONS[precision])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
    way = ", checkpointed" if grad_checkpointing else ""
    return [{"case": f"{precision}{way}", **row, "process MB": peak, "pairs/s": pairs / row["median s"]}]
