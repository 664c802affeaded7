"""Greedy captions with the key-value cache and without it, the sizes of ViT-B/32; random weights."""

from argparse import ArgumentParser
from collections.abc import Callable

import torch
from torch import Tensor

from models import CLIP, CLIPConfig
from models.caption_decoder import Cache, CaptionDecoder
from models.level import TokenSet
from scripts.benchmarks.measure import Row, count, measure_in_turns

WIDTH = 512


def add_arguments(parser: ArgumentParser) -> None:
    """Sizes of a batch of captions."""
    parser.add_argument("--videos", type=count, default=16, help="captions that are written at once")
    parser.add_argument("--words", type=count, default=30, help="tokens of each")
    parser.add_argument("--levels", type=count, nargs="+", default=(12, 3, 2), help="tokens of each level")
    parser.add_argument("--layers", type=count, default=2, help="blocks of the decoder")
    parser.add_argument("--repeats", type=count, default=3, help="runs")


@torch.inference_mode()
def measure(videos: int, words: int, levels: tuple[int, ...], layers: int, repeats: int) -> list[Row]:
    """Seconds and megabytes; without the cache each word recomputes memory and all words so far.

    Args:
        videos: captions that are written at once.
        words: tokens of each.
        levels: tokens of each level.
        layers: blocks of the decoder.
        repeats: runs.
    """
    torch.manual_seed(0)
    sizes = CLIPConfig(32, 32, 64, 1, WIDTH, 1, WIDTH)
    decoder = CaptionDecoder(CLIP(sizes), levels=len(levels), layers=layers, dropout=0.0).eval()
    sets = [TokenSet.original(torch.randn(videos, tokens, WIDTH), torch.ones(videos, tokens)) for tokens in levels]
    calls = {
        "with the cache": lambda: write(decoder, sets, videos, words, cached),
        "without, logits of the last word": lambda: write(decoder, sets, videos, words, last_word),
        "without, logits of all words": lambda: write(decoder, sets, videos, words, all_words),
    }
    measured = measure_in_turns(calls, repeats)
    rows = [{"case": name, **row} for name, (_, row) in measured.items()]
    first = rows[0]["median s"]
    return [row | {"tokens/s": videos * words / row["median s"], "times": row["median s"] / first} for row in rows]


def write(decoder: CaptionDecoder, sets: list[TokenSet], videos: int, words: int, logits_after: Callable) -> Tensor:
    """Write captions (videos, words) without early end."""
    ids, cache = torch.full((videos, 1), decoder.start), decoder.read(sets)
    for _ in range(words):
        logits, cache = logits_after(decoder, sets, ids, cache)
        ids = torch.cat([ids, logits[:, : decoder.start].argmax(dim=1, keepdim=True)], dim=1)
    return ids[:, 1:]


def cached(decoder: CaptionDecoder, sets: list[TokenSet], ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
    """Logits of the next word from the last one and the cache."""
    return decoder.step(ids[:, -1], cache)


def last_word(decoder: CaptionDecoder, sets: list[TokenSet], ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
    """The same from all words."""
    return decoder.logits(decoder(ids, decoder.read(sets)).hidden[:, -1]), cache


def all_words(decoder: CaptionDecoder, sets: list[TokenSet], ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
    """The same as in training, with the logits after each word."""
    return decoder.logits(decoder(ids, decoder.read(sets)).hidden)[:, -1], cache
