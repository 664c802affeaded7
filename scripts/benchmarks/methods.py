"""Similarity of each method on ragged random tokens, and in blocks with all padding, as released."""

from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from models import METHODS, RetrievalMethod, Tokens
from models.baselines.pooling import pool_frames
from models.interaction import token_similarity, unit
from models.level import TokenSet
from scripts.benchmarks.measure import Row, count, measure_in_turns
from scripts.benchmarks.model import ragged_mask, random_clip

CASES = {
    "clip4clip meanP": ("clip4clip", {"sim_header": "meanP"}, 16),
    "clip4clip tightTransf": ("clip4clip", {"sim_header": "tightTransf"}, 16),
    "drl wti": ("drl", {}, 32),
    "drl ti": ("drl", {"interaction": "ti", "cdcr": 0}, 32),
    "drl xti": ("drl", {"interaction": "xti"}, 32),
    "emcl": ("emcl", {}, 32),
    "emcl corrected": ("emcl", {"recipe": "corrected"}, 32),
    "dicosa": ("dicosa", {}, 16),
    "diffusionret": ("diffusionret", {"stage": "discrimination"}, 32),
}
"""Method, its options, and the texts and videos of a block in the released code."""


def add_arguments(parser: ArgumentParser) -> None:
    """Sizes of the sets."""
    parser.add_argument("--cases", choices=tuple(CASES), nargs="+", default=list(CASES), help="methods")
    parser.add_argument("--size", type=count, default=1000, help="texts, and as many videos")
    parser.add_argument("--pair_size", type=count, default=32, help="the same where a transformer runs for each pair")
    parser.add_argument("--words", type=count, default=32, help="positions of a text, a quarter or more of them valid")
    parser.add_argument("--frames", type=count, default=12, help="positions of a video, half or more of them valid")
    parser.add_argument("--repeats", type=count, default=3, help="runs")


@torch.inference_mode()
def measure(cases: list[str], size: int, pair_size: int, words: int, frames: int, repeats: int) -> list[Row]:
    """Seconds and megabytes of each method, and the largest difference from the released computation."""
    clip, rows = random_clip(), []
    for case in cases:
        method, options, block = CASES[case]
        model = METHODS[method](clip, temporal=None, **options).eval()
        number = pair_size if getattr(model, "pairs", None) is not None else size
        masks = ragged_mask(number, words, words // 4), ragged_mask(number, frames, frames // 2)
        text, video = (Tokens(torch.randn(*mask.shape, clip.config.embed_dim), mask) for mask in masks)
        calls = {"": partial(model.similarity, text, video), ", in released blocks": partial(
            in_released_blocks, partial(released_way(model), model), text, video, block)}  # fmt: skip
        measured = measure_in_turns(calls, repeats)
        difference = (measured[""][0] - measured[", in released blocks"][0]).abs().max().item()
        for name, (_, row) in measured.items():
            rows.append({"case": f"{case}, {number} x {number}{name}", **row, "difference": difference})
    return rows


def in_released_blocks(compare: Callable[[Tokens, Tokens], Tensor], text: Tokens, video: Tokens, block: int) -> Tensor:
    """Compare blocks of texts and videos, with all padding."""
    splits = ([tensor.split(block) for tensor in some] for some in (text, video))
    texts, videos = ([Tokens(*part) for part in zip(*split, strict=True)] for split in splits)
    return torch.cat([torch.cat([compare(row, column) for column in videos], dim=1) for row in texts])


def released_way(model: RetrievalMethod) -> Callable[[RetrievalMethod, Tokens, Tokens], Tensor]:
    """The computation of a block in a method's released code."""
    if getattr(model, "pairs", None) is not None:
        return _all_tokens_of_pairs
    if model.token_levels():
        return _all_token_similarities
    if hasattr(model, "concept_weight"):
        return _weighted_concepts
    return _pooled_videos if hasattr(model, "mu") else type(model).similarity


def _all_tokens_of_pairs(model: RetrievalMethod, text: Tokens, video: Tokens) -> Tensor:
    """The pair encoder, whose last block computes all tokens."""
    run = model.pairs.transformer.forward
    model.pairs.transformer.forward = lambda x, mask, count: run(x, mask)[:, :count]
    try:
        return model.pairs(text.sentences(), video)
    finally:
        del model.pairs.transformer.forward


def _all_token_similarities(model: RetrievalMethod, text: Tokens, video: Tokens) -> Tensor:
    """Token similarities of a block with their padding, (A, B, N_t, N_v)."""
    sim = token_similarity(unit(*text), unit(*video))
    (level,), sides = model.token_levels(), (("text", text), ("video", video))
    word, frame = (level.token_weights(TokenSet.original(*some), side)[1] for side, some in sides)
    best = torch.einsum("abt,at->ab", sim.amax(dim=3), word) + torch.einsum("abv,bv->ab", sim.amax(dim=2), frame)
    return best / 2


def _weighted_concepts(model: RetrievalMethod, text: Tokens, video: Tokens) -> Tensor:
    """Videos pooled by each text, (A, B, D), and the concepts of each pair weighed by the head, (A, B, C, 2 D / C)."""
    sentence, concepts = text.last(), (model.options.center, -1)
    padding = model.recipe.padding_in_pooling
    pooled = pool_frames(sentence.expand(len(video.mask), -1, -1), *video, model.options.temp, padding=padding)
    words, frames = sentence.unflatten(1, concepts).unsqueeze(1), pooled.transpose(0, 1).unflatten(2, concepts)
    weight = model.concept_weight(torch.cat([words.expand_as(frames), frames], dim=3)).squeeze(3)
    return (weight * torch.cosine_similarity(words, frames, dim=3)).sum(dim=2)


def _pooled_videos(model: RetrievalMethod, text: Tokens, video: Tokens) -> Tensor:
    """Videos pooled by each text, (A, B, D); with bases where the recipe has them in evaluation."""
    if model.recipe.em_in_evaluation:
        return model.reconstructed_similarity(text.sentences(), video)
    sentence = text.last()
    pooled = torch.einsum("abn,bnd->abd", model.frame_weights(sentence, *video)[1], video.tokens)
    return torch.cosine_similarity(sentence.unsqueeze(1), pooled, dim=2)
