"""Similarity of all texts with all videos, block by block, without computing padding.

Dimension letters: A texts, B videos, N tokens, N_t words, N_v frames, D width. A row is one token of one sequence.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.interaction import unit

TEXT_ROWS, VIDEO_ROWS = 960, 768
"""The most of a block on the CPU: enough for fast matrix products, few enough to stay in the processor's caches. In
half precision twice as many of videos."""
HELD_ROWS = 32 * TEXT_ROWS
"""Rows of texts that are packed at a time."""
SHAPES = 4
"""Row counts that texts are filled up to: libraries of matrix products keep some memory for each shape they meet."""
VECTOR = 128
"""Bytes of neighbours whose maxima the CPU finds at once; what is left of a row takes several times as long."""


@dataclass(frozen=True)
class Packed:
    """Some sequences of a set, cut to the longest of them and laid out for `packed_similarity`.

    Attributes:
        index: int64 (B,), which sequences of the set.
        tokens: (N * B or more, D), unit tokens: the first ones of all sequences, then all second ones, ...; then zeros.
        weight: float32 (N, B), weight of each token's best match; NaN where the token is not finite.
        cut: padding was cut off; its cosines, all 0, still take part in the maxima.
    """

    index: Tensor
    tokens: Tensor
    weight: Tensor
    cut: bool


@dataclass(frozen=True)
class Sequences:
    """A set of texts or videos at one level.

    Attributes:
        tokens: (B, N, D).
        mask: (B, N), 1 for valid tokens; None where all are.
        weight: float32 (B, N), weight of each token's best match.
    """

    tokens: Tensor
    mask: Tensor | None
    weight: Tensor

    def parts(self, rows: int, multiple: int = 1) -> list[tuple[Tensor, int]]:
        """Divide the set into parts of at most `rows` rows, at least a sequence each, nearly all of one length.

        What does not fill a quarter of the rows goes with the sequences of the next length.

        Args:
            rows: see above.
            multiple: parts have this many sequences or a multiple, but for the last part and where fewer fit.

        Returns:
            Of each part int64 (B,), which sequences, and the number of positions up to its last valid token.
        """
        batch, positions = self.tokens.shape[:2]
        if self.mask is None:
            length, order = torch.full((batch,), positions), torch.arange(batch)
        else:
            place = torch.arange(1, positions + 1, device=self.mask.device)
            length, order = (place * self.mask.bool()).amax(dim=1).clamp(min=1).cpu().sort()
        parts, first, end = [], 0, 0
        for longest, same in zip(*(x.tolist() for x in length.unique_consecutive(return_counts=True)), strict=True):
            end += same
            whole = max(rows // longest, 1)
            whole -= whole % min(multiple, whole)
            full, rest = divmod(end - first, whole)
            quarter = max(rows // SHAPES // longest, multiple)
            last = rest if end == batch else rest - rest % (quarter - quarter % multiple)
            for size in [whole] * full + [last] * (last > 0):
                parts.append((order[first : first + size].to(self.tokens.device), longest))
                first += size
        return parts

    def pack(self, index: Tensor, longest: int, dtype: torch.dtype, multiple: int = 1) -> Packed:
        """Lay out the sequences `index` (B,), with `longest` positions each, in a multiple of `multiple` rows."""
        tokens = unit(self.tokens[index, :longest], None if self.mask is None else self.mask[index, :longest])
        used = len(index) * longest
        packed = tokens.new_zeros(math.ceil(used / multiple) * multiple, tokens.shape[2], dtype=dtype)
        packed[:used].view(longest, len(index), -1).copy_(tokens.transpose(0, 1))
        weight = self.weight[index, :longest] + 0 * tokens.sum(dim=2)
        return Packed(index, packed, weight.mT, cut=longest < self.tokens.shape[1])


def block_rows(text: Sequences, video: Sequences, memory: int, dtype: torch.dtype) -> tuple[int, int]:
    """Rows of texts and of videos in a block whose token similarities take `memory` bytes at most, if a pair does."""
    cells = memory // dtype.itemsize
    words, frames = text.tokens.shape[1], video.tokens.shape[1]
    texts = max(min(math.isqrt(cells), cells // frames), 1)
    if text.tokens.device.type == "cpu":
        texts = min(texts, TEXT_ROWS)
    videos = max(cells // max(texts, words), 1)
    if text.tokens.device.type == "cpu":
        videos = min(videos, VIDEO_ROWS * 4 // dtype.itemsize)
    return texts, videos


def similarity_without_padding(text: Sequences, video: Sequences, memory: int, dtype: torch.dtype) -> Tensor:
    """`models.interaction.weighted_similarity` of every text with every video.

    Sequences of about the same length are compared block by block. Beside the result this takes `memory`, at least
    that of one pair, and a packed copy of `HELD_ROWS` rows of texts and of one block's videos.

    Args:
        text: A texts.
        video: B videos.
        memory: bytes that the token similarities of a block may take.
        dtype: of the matrix products; maxima of them are exact, and sums over tokens are float32.

    Returns:
        float32 (A, B).
    """
    text_rows, video_rows = block_rows(text, video, memory, dtype)
    texts, videos = text.parts(text_rows), video.parts(video_rows, VECTOR // dtype.itemsize)
    sim = text.tokens.new_empty(len(text.tokens), len(video.tokens), dtype=torch.float32)
    held = max(1, HELD_ROWS // text_rows)
    place = torch.cat([index for index, _ in videos]).argsort()  # of each video among the packed
    for first in range(0, len(texts), held):
        packed = [text.pack(*part, dtype, max(text_rows // SHAPES, 1)) for part in texts[first : first + held]]
        for part, columns in zip(videos, sim.split([len(index) for index, _ in videos], dim=1), strict=True):
            against = video.pack(*part, dtype)
            for some in packed:
                columns.index_copy_(0, some.index, packed_similarity(some, against))
        for some in packed:  # a few rows at a time, so that the result never exists twice
            sim[some.index] = sim[some.index].index_select(1, place)
        packed.clear()  # before the next texts are packed
    return sim


def packed_similarity(text: Packed, video: Packed) -> Tensor:
    """Similarity of every packed text with every packed video, float32 (A, B).

    The maxima run over outer axes of the token similarities, so that neighbours in memory are pairs; they are exact in
    any dtype, and all sums are float32.
    """
    product = text.tokens @ video.tokens.mT
    used = product[: text.weight.numel(), : video.weight.numel()]
    token_sim = used.unflatten(1, video.weight.shape).unflatten(0, text.weight.shape)  # (N_t, A, N_v, B)
    best_frame = largest(token_sim, dim=2, cut=video.cut)  # (N_t, A, B)
    best_word = largest(token_sim, dim=0, cut=text.cut)  # (A, N_v, B)
    text_to_video = (best_frame * text.weight.unsqueeze(2)).sum(dim=0)  # the weights are float32, and so the products
    video_to_text = (best_word * video.weight).sum(dim=1)
    return (text_to_video + video_to_text) / 2


def largest(values: Tensor, dim: int, cut: bool) -> Tensor:
    """Exact maxima along `dim`, at least 0 if `cut`; NaN may then be lost in bfloat16."""
    if not cut:
        return values.amax(dim)
    if values.dtype is torch.bfloat16:
        # Integers of the same bits are several times as fast; they keep the order of what is not negative.
        return values.view(torch.int16).amax(dim).clamp_(min=0).view(values.dtype)
    return values.amax(dim).clamp_(min=0)
