"""Time of Python and PyTorch in a training step in bfloat16 with a GPU's operations: ViT-B/32's depth, tiny widths."""

import time
from argparse import ArgumentParser
from dataclasses import replace
from statistics import median
from unittest.mock import patch

import torch

from models import CLIP, HBI, transformer
from scripts.benchmarks.measure import Row, count
from scripts.benchmarks.model import SIZES
from utils.devices import autocast
from utils.engine.builders import build_optimizer
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer

TINY = replace(SIZES, resolution=32, vision_width=64, text_width=64, embed_dim=64, vocabulary=100)
PAIRS, WORDS, FRAMES = 2, 4, 3


def add_arguments(parser: ArgumentParser) -> None:
    """The repetitions."""
    parser.add_argument("--repeats", type=count, default=30, help="runs")


def measure(repeats: int) -> list[Row]:
    """Milliseconds of the host, with almost no computation."""
    torch.manual_seed(0)
    model, options = HBI(CLIP(TINY), teacher="exact").train(), TrainingOptions(precision="bf16")
    trainer = Trainer(model, build_optimizer(model, options, total_steps=100), device=model.device, options=options)
    masks = [torch.ones(PAIRS, positions, dtype=torch.int64) for positions in (WORDS, FRAMES)]
    frames = torch.randint(0, 256, (PAIRS * FRAMES, 3, 32, 32), dtype=torch.uint8)
    batch = {"ids": torch.ones_like(masks[0]), "text_mask": masks[0], "frames": frames, "video_mask": masks[1]}
    batch["video_ids"] = torch.arange(PAIRS)
    times: dict[str, list[float]] = {name: [] for name in ("forward", "backward", "whole step")}

    def timed(name: str, began: float) -> float:
        times[name].append(1000 * ((now := time.perf_counter()) - began))
        return now

    with patch.object(transformer, "on_cpu", return_value=False):
        for _ in range(repeats + 1):
            began = time.perf_counter()
            with autocast(model.device, "bf16"):
                loss = model(**batch)["loss"]
            began = timed("forward", began)
            loss.backward()
            timed("backward", began)
            model.zero_grad(set_to_none=True)
            began = time.perf_counter()
            trainer.step(batch, update=True)
            timed("whole step", began)
    # The first run is not counted.
    return [{"case": name, "min ms": min(ms[1:]), "median ms": median(ms[1:])} for name, ms in times.items()]
