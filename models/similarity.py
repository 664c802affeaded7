"""Similarity of all texts with all videos in evaluation: block by block, without computing padding.

A texts, B videos or sequences, N tokens, D width. A row is one token of one sequence.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.encoder import Tokens
from models.interaction import TokenRows, repeat_first, unit, weighted_similarity

# Maximum rows of a block on the CPU: fast matrix products that fit the caches. In half precision twice as many rows of
# videos.
TEXT_ROWS, VIDEO_ROWS = 960, 768
# Row counts that texts are filled up to: libraries of matrix products keep some memory for each new shape.
SHAPES = 4
# Bytes of neighbours whose maxima the CPU computes at once; the rest of a row takes several times as long.
VECTOR = 128


def rows_held(device: torch.device) -> int:
    """Rows of texts that are laid out at a time; the videos are laid out again for each."""
    return 32 * TEXT_ROWS if device.type == "cpu" else 512 * TEXT_ROWS


def in_blocks(
    compare: Callable[[Tokens, Any], Tensor],
    text: Tokens,
    video: Tokens,
    memory: int | None,
    pair_bytes: int,
    prepare: Callable[[Tokens], Any] = lambda video: video,
) -> Float[Tensor, "A B"]:
    """Compare block by block; with gradient, several blocks use activation checkpointing.

    A block has as many pairs of `pair_bytes` as fit into `memory`, at least one; all if that is None. `prepare`
    computes what does not depend on the texts, once for each block of videos.
    """
    if memory is None:
        return compare(text, prepare(video)).float()
    texts = max(1, min(len(text.mask), math.isqrt(max(memory // pair_bytes, 1))))
    videos = max(1, memory // (pair_bytes * texts))
    columns = [Tokens(*part) for part in zip(*(tensor.split(videos) for tensor in video), strict=True)]
    rows = [Tokens(*part) for part in zip(*(tensor.split(texts) for tensor in text), strict=True)]
    if not len(text.mask) or not len(video.mask):
        return text.tokens.new_zeros(len(text.mask), len(video.mask), dtype=torch.float32)
    if torch.is_grad_enabled() and len(rows) * len(columns) > 1:
        compare = partial(checkpoint, compare, use_reentrant=False)

    def column(videos: Tokens) -> Tensor:
        prepared = prepare(videos)
        return torch.cat([compare(row, prepared).float() for row in rows])

    return torch.cat([column(videos) for videos in columns], dim=1)


@dataclass(frozen=True)
class Sequences:
    """A set of texts or videos at one level."""

    tokens: Float[Tensor, "B N D"]
    mask: Shaped[Tensor, "B N"] | None  # None: all are valid
    weight: Float[Tensor, "B N"]  # of each token's best match
    padding: bool  # whether padding, with cosines of 0, takes part in the maxima

    def buckets(self, rows: int, multiple: int = 1) -> list[tuple[Int[Tensor, " bucket"], int]]:
        """Divide the set into buckets of about one length, with at most `rows` rows, at least one sequence.

        A rest that does not fill a quarter of the rows joins the next length. Where enough fit, the number of sequences
        is a multiple of `multiple`, the last bucket excepted. A bucket is sequence numbers and number of positions.
        """
        batch, positions = self.tokens.shape[:2]
        if self.mask is None:
            length, order = torch.full((batch,), positions), torch.arange(batch)
        else:
            place = torch.arange(1, positions + 1, device=self.mask.device)
            length, order = (place * self.mask.bool()).amax(dim=1).clamp(min=1).cpu().sort()
        buckets, first, end = [], 0, 0
        for longest, same in zip(*(x.tolist() for x in length.unique_consecutive(return_counts=True)), strict=True):
            end += same
            whole = max(rows // longest, 1)
            whole -= whole % min(multiple, whole)
            full, rest = divmod(end - first, whole)
            quarter = max(rows // SHAPES // longest, multiple)
            last = rest if end == batch else rest - rest % (quarter - quarter % multiple)
            for size in [whole] * full + [last] * (last > 0):
                buckets.append((order[first : first + size].to(self.tokens.device), longest))
                first += size
        return buckets

    def rows(self, index: Int[Tensor, " bucket"], longest: int, dtype: torch.dtype, multiple: int = 1) -> TokenRows:
        """Lay out `longest` positions of the sequences `index`, in a multiple of `multiple` rows."""
        mask = None if self.mask is None else self.mask[index, :longest]
        tokens = unit(self.tokens[index, :longest], mask)
        if not self.padding:
            tokens = repeat_first(tokens, mask)
        used = len(index) * longest
        rows = tokens.new_zeros(math.ceil(used / multiple) * multiple, tokens.shape[2], dtype=dtype)
        rows[:used].view(longest, len(index), -1).copy_(tokens.transpose(0, 1))
        weight = self.weight[index, :longest] + 0 * tokens.sum(dim=2)  # NaN where a token is not finite
        return TokenRows(rows, weight.mT, cut=self.padding and longest < self.tokens.shape[1])


def block_rows(text: Sequences, video: Sequences, memory: int, dtype: torch.dtype) -> tuple[int, int]:
    """Rows of texts and of videos in a block whose token similarities take at most `memory` bytes, or one pair."""
    cells = memory // dtype.itemsize
    words, frames = text.tokens.shape[1], video.tokens.shape[1]
    texts = max(min(math.isqrt(cells), cells // frames), 1)
    if text.tokens.device.type == "cpu":
        texts = min(texts, TEXT_ROWS)
    videos = max(cells // max(texts, words), 1)
    if text.tokens.device.type == "cpu":
        videos = min(videos, VIDEO_ROWS * 4 // dtype.itemsize)
    return texts, videos


def similarity_without_padding(
    text: Sequences, video: Sequences, memory: int, dtype: torch.dtype
) -> Float[Tensor, "A B"]:
    """`models.interaction.weighted_similarity` of every text with every video.

    Sequences of about one length are compared block by block. On top of the result this takes `memory` bytes for the
    token similarities of a block, at least of one pair, `rows_held` rows of words and the rows of one block's videos.
    `dtype` is that of the matrix products; sums over tokens are float32.
    """
    text_rows, video_rows = block_rows(text, video, memory, dtype)
    texts, videos = text.buckets(text_rows), video.buckets(video_rows, VECTOR // dtype.itemsize)
    sim = text.tokens.new_empty(len(text.tokens), len(video.tokens), dtype=torch.float32)
    held = max(1, rows_held(text.tokens.device) // text_rows)
    place = torch.cat([index for index, _ in videos]).argsort()  # of each video among the buckets
    for first in range(0, len(texts), held):
        some = texts[first : first + held]
        rows = [text.rows(*bucket, dtype, max(text_rows // SHAPES, 1)) for bucket in some]
        for bucket, columns in zip(videos, sim.split([len(index) for index, _ in videos], dim=1), strict=True):
            against = video.rows(*bucket, dtype)
            for (index, _), words in zip(some, rows, strict=True):
                columns.index_copy_(0, index, weighted_similarity(words, against))
        for index, _ in some:  # a few rows at a time, so that the result is never held twice
            sim[index] = sim[index].index_select(1, place)
        rows.clear()  # before the next texts are laid out
    return sim
