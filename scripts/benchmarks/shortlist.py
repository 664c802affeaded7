"""One query to a large gallery of random videos: shortlist by pooled vectors, ranked by the interaction."""

from argparse import ArgumentParser
from functools import partial

import torch

from models.shortlist import Gallery
from scripts.benchmarks.measure import Row, count, measure_call
from scripts.benchmarks.model import ragged_mask, random_model


def add_arguments(parser: ArgumentParser) -> None:
    """Sizes of the gallery and of the query."""
    parser.add_argument("--videos", type=count, default=100_000, help="videos of the gallery")
    parser.add_argument("--shortlist", type=count, default=100, help="videos that the interaction ranks")
    parser.add_argument("--frames", type=count, default=12, help="positions of a video, half or more of them valid")
    parser.add_argument("--words", type=count, default=24, help="positions of the query")
    parser.add_argument("--repeats", type=count, default=15, help="runs")


@torch.inference_mode()
def measure(videos: int, shortlist: int, frames: int, words: int, repeats: int) -> list[Row]:
    """Seconds and megabytes of a query and of its parts.

    Args:
        videos: of the gallery.
        shortlist: videos that the interaction ranks.
        frames: positions of a video.
        words: positions of the query.
        repeats: runs.
    """
    model = random_model(temporal=None)
    mask = ragged_mask(videos, frames, max(frames // 2, 1))
    tokens = torch.randn(videos, frames, model.clip.config.embed_dim)
    gallery = Gallery(model, tokens, mask)
    text_mask = ragged_mask(1, words, words)
    ids = torch.randint(1, model.clip.config.vocabulary, text_mask.shape)

    def encode() -> tuple[torch.Tensor, torch.Tensor]:
        return model.text_tokens(ids, text_mask), text_mask

    def rank(text: tuple[torch.Tensor, torch.Tensor], near: torch.Tensor) -> torch.Tensor:
        return near[0, gallery.similarity(text, near)[0].argsort(descending=True)]

    def query() -> torch.Tensor:
        text = encode()
        return rank(text, gallery.nearest(text, shortlist))

    text = encode()
    calls = {
        "reading the query": encode,
        "shortlist": partial(gallery.nearest, text, shortlist),
        "ranking it": partial(rank, text, gallery.nearest(text, shortlist)),
        "whole query": query,
    }
    return [{"case": name, **measure_call(call, repeats)[1]} for name, call in calls.items()]
