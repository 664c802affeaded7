"""Banzhaf interactions of one batch: exact and sampled, with their root-mean-square errors.

The reference is the closed form in float64, which enumerates all coalitions of up to 16 tokens and draws 65536 for
longer captions.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from models.banzhaf import LABEL_SCALE, exact_interaction, sampled_interaction
from scripts.benchmarks.measure import Row, count, measure_call
from utils.errors import InputError


def add_arguments(parser: ArgumentParser) -> None:
    """Sizes of the batch."""
    parser.add_argument("--pairs", type=count, default=128, help="text-video pairs")
    parser.add_argument("--words", type=count, default=24, help="words of the longest caption")
    parser.add_argument("--frames", type=count, default=12, help="frames of the longest video")
    parser.add_argument("--num_samples", type=count, default=100, help="samples per cell")
    parser.add_argument("--repeats", type=count, default=15, help="runs of the exact methods; sampling runs twice")


def measure(pairs: int, words: int, frames: int, num_samples: int, repeats: int) -> Iterator[Row]:
    """Seconds, megabytes and errors of each method; "signal" is the root mean square of the interactions themselves.

    Args:
        pairs: text-video pairs.
        words: words of the longest caption.
        frames: frames of the longest video.
        num_samples: samples per cell.
        repeats: runs of the exact methods.

    Raises:
        InputError: fewer than two words or frames.
    """
    if min(words, frames) < 2:
        raise InputError(f"--words {words}, --frames {frames}: an interaction needs at least two of each")
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    text_mask, video_mask = (
        torch.arange(tokens) < torch.randint(2, tokens + 1, (pairs, 1), generator=generator)
        for tokens in (words, frames)
    )
    cosine = torch.rand(pairs, words, frames, generator=generator) * 1.2 - 0.4
    scores = [torch.randn(mask.shape, generator=generator) for mask in (text_mask, video_mask)]
    weights = [
        score.masked_fill(~mask, -torch.inf).softmax(-1)
        for score, mask in zip(scores, (text_mask, video_mask), strict=True)
    ]
    masks = text_mask, video_mask
    valid = text_mask.unsqueeze(2) & video_mask.unsqueeze(1)
    games = {"standard": (LABEL_SCALE * cosine, *masks, *scores), "released": (LABEL_SCALE * cosine, *masks, *weights)}
    for game, (sim, *others) in games.items():
        reference = exact_interaction(sim.double(), *others, game=game, coalitions=2**15)[valid]
        exact = partial(exact_interaction, sim, *others, game=game)
        sampled = partial(sampled_interaction, sim, *others, game=game, num=num_samples)
        for method, call, runs in (("exact", exact, repeats), (f"sampled, {num_samples}", sampled, 2)):
            result, row = measure_call(call, runs)
            errors = {"error": _root_mean_square(result[valid] - reference), "signal": _root_mean_square(reference)}
            yield {"case": f"{game}: {method}", **row, **errors}


def _root_mean_square(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()
