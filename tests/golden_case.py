"""Weights and inputs of the golden cases, regenerated from their names."""

import json
import os
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"
DEVICE = os.environ.get("HBI_TEST_DEVICE", "cpu")
"""Device of the golden cases; scripts/test_gpu.sh sets it."""
LENGTHS = {
    "a1": ((24, 9, 5, 15), (12, 7, 12, 3)),
    "a2": ((7, 24, 12, 18), (5, 12, 9, 12)),
    "a5": ((7, 24, 12, 18), (5, 12, 9, 12)),
    "b1": ((24, 11), (3, 3)),
    "s22": ((24, 9, 5, 15, 12, 20), (12, 7, 12, 3, 9)),
    "q2": ((24, 9, 5, 15), (12, 7, 12, 3)),
    "e1": ((10, 6, 8), (6, 4, 5)),
}
NORMS = {"ln_1", "ln_2", "ln_pre", "ln_post", "ln_final", "norm", "norm1", "bn"}
POOLING = {f"{side}_weight{suffix}" for side in "tv" for suffix in ("", "0", "1")}


def generator(name: str) -> np.random.RandomState:
    """The random state that belongs to a name."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def fill(name: str, shape) -> torch.Tensor:
    """The weight called `name` in the released spelling; drawn once, so leave it unchanged."""
    return draw_weight(name, tuple(shape))


@cache
def draw_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight of `fill`, drawn at the first call."""
    x = generator(name).standard_normal(shape)
    parts = name.split(".")
    first, last, parent = parts[0], parts[-1], parts[-2] if len(parts) > 1 else ""
    second = parts[1] if len(parts) > 1 else ""
    banzhaf = first.startswith("banzhaf")
    if name == "clip.logit_scale":
        return torch.tensor(np.float32(np.log(100)))
    if last == "num_batches_tracked":
        return torch.tensor(0)
    if last == "running_mean":
        value = 0.02 * x
    elif last == "running_var":
        value = 1 + 0.02 * np.abs(x)
    elif last == "weight" and parent in NORMS:
        value = 1 + 0.02 * x
    elif "bias" in last:
        value = 0.02 * x
    elif banzhaf and second in ("Q", "K"):
        value = 0.8 * x
    elif banzhaf and second == "V":
        value = 0.3 * x
    elif banzhaf and name.split(".", 1)[1] in ("cnn1.weight", "cnn2.weight"):
        value = 0.5 * x
    elif "_weight_fc" in first or first in POOLING:
        value = 0.05 * x
    elif name.startswith("clip.visual.transformer.") and len(shape) == 2:
        value = x / np.sqrt(shape[1])
    else:
        value = 0.02 * x
    return torch.tensor(value.astype(np.float32))


def filled_state(file: str, part: str = "retrieval") -> dict[str, torch.Tensor]:
    """A whole state dict, keys and shapes from a golden JSON file."""
    keys = json.loads((GOLDEN / file).read_text())[part]
    # Weights of full size take too much memory to keep.
    draw = draw_weight if "tiny" in file else draw_weight.__wrapped__
    return {name: draw(name, tuple(shape)) for name, shape in keys.items()}


def inputs(case: str, words: int = 24, frames: int = 12, resolution: int = 64, lengths=None):
    """Ids, text mask, frames (already normalised) and video mask of a case; `lengths` of texts and of videos."""
    text_lengths, video_lengths = lengths or LENGTHS[case]
    body = generator(f"input.{case}.text_ids").randint(1, 49406, size=(len(text_lengths), words))
    ids = np.zeros_like(body)
    for row, length in enumerate(text_lengths):
        ids[row, :length] = body[row, :length]
        ids[row, 0], ids[row, length - 1] = 49406, 49407
    text_mask = (np.arange(words) < np.array(text_lengths)[:, None]).astype(np.int64)
    video_mask = (np.arange(frames) < np.array(video_lengths)[:, None]).astype(np.int64)
    shape = (len(video_lengths), frames, 3, resolution, resolution)
    video = generator(f"input.{case}.video").standard_normal(shape).astype(np.float32)
    video *= video_mask[:, :, None, None, None]
    return tuple(torch.tensor(x, device=DEVICE) for x in (ids, text_mask, video, video_mask))


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays}


def assert_close(ours, reference, tolerance: float = 2e-5) -> None:
    """Largest difference at most `tolerance` times the largest reference value."""
    ours = ours.detach().double().cpu().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    difference = np.abs(ours - reference).max()
    assert difference <= tolerance * np.abs(reference).max(), f"difference {difference:.2e}"


def norm(x: torch.Tensor | None) -> float:
    """Length of a tensor, in double precision; 0 where there is none."""
    return 0.0 if x is None else torch.linalg.vector_norm(x.detach(), dtype=torch.float64).item()
