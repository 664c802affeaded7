"""One level of the hierarchy: entity, action and event are the same thing at another grain.

Dimension letters: A texts, B videos or pairs, N tokens, N_t words, N_v frames, D width.
Source: HBI, arXiv 2303.14369.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.banzhaf import BanzhafModule
from models.interaction import Packed, TokenWeight, packed_similarity, similarity_in_blocks, token_similarity, unit
from models.recipe import Recipe
from models.token_merge import Clusters, MergeStage

TEXTS, VIDEOS = 64, 64
"""The most of a block of similarities: enough for fast matrix products, few enough to stay in the processor's caches.
In half precision twice as many videos."""
HELD = 1024
"""Texts that are packed at a time."""


@dataclass(frozen=True)
class TokenSet:
    """One modality at one level.

    Attributes:
        tokens: (B, N, D).
        mask: (B, N), 1 for valid tokens; None above the entity level, where the method masks nothing.
        lengths: (B,), number of valid tokens before any merge.
        clusters: where the original tokens went.
    """

    tokens: Tensor
    mask: Tensor | None
    lengths: Tensor
    clusters: Clusters

    @classmethod
    def original(cls, tokens: Tensor, mask: Tensor) -> "TokenSet":
        """The set that no merge has touched: tokens (B, N, D), mask (B, N)."""
        return cls(tokens, mask, mask.sum(dim=1), Clusters.identity(tokens))

    def merged(self, stage: MergeStage) -> "TokenSet":
        """The set one level up."""
        tokens, clusters = stage(self.tokens, self.mask, self.clusters)
        return TokenSet(tokens, None, self.lengths, clusters)

    def by_length(self, count: int) -> list[tuple[Tensor, int]]:
        """Divide the set into parts of at most `count` sequences, of one length where a fourth as many have it.

        Returns:
            Of each part int64 (B,), which sequences, and the number of positions up to its last valid token.
        """
        batch, positions = self.tokens.shape[:2]
        if self.mask is None:
            return [(index, positions) for index in torch.arange(batch, device=self.tokens.device).split(count)]
        place = torch.arange(1, positions + 1, device=self.mask.device)
        length, order = (place * self.mask.bool()).amax(dim=1).cpu().sort()
        sizes = [0]
        for same in length.unique_consecutive(return_counts=True)[1].tolist():
            if 4 * sizes[-1] >= count:
                sizes.append(0)
            sizes[-1] += same
        parts = [part for some in torch.arange(batch).split(sizes) for part in some.chunk(math.ceil(len(some) / count))]
        return [(order[part].to(self.tokens.device), max(length[part[-1]].item(), 1)) for part in parts]

    def part(self, index: Tensor, longest: int) -> "TokenSet":
        """The sequences `index` (B,), cut to their first `longest` positions."""
        clusters = Clusters(self.clusters.index[index], self.clusters.weight[index])
        mask = None if self.mask is None else self.mask[:, :longest][index]
        return TokenSet(self.tokens[:, :longest][index], mask, self.lengths[index], clusters)

    def valid(self) -> Tensor:
        """The mask (B, N), ones where the level masks nothing."""
        return self.tokens.new_ones(self.tokens.shape[:2]) if self.mask is None else self.mask


@dataclass(frozen=True)
class LevelOutput:
    """What one level says of all pairs.

    Attributes:
        name: "entity", "action" or "event".
        sim: (A, B) similarity.
        text_unit, video_unit: (A, N_t, D) and (B, N_v, D), tokens of length 1, padding 0; N_t and N_v counted at this
            level.
        text_score, video_score: (A, N_t) and (B, N_v), the scores whose softmax weighs the tokens.
        text, video: `Clusters`, which token of this level each original word and frame is in.
    """

    name: str
    sim: Tensor
    text_unit: Tensor
    video_unit: Tensor
    text_score: Tensor
    video_score: Tensor
    text: Clusters
    video: Clusters

    @property
    def token_sim(self) -> Tensor:
        """Token similarity of all pairs (A, B, N_t, N_v), computed when asked for: training never holds it whole."""
        return token_similarity(self.text_unit, self.video_unit)

    @property
    def pair_sim(self) -> Tensor:
        """Token similarity of the true pairs, text b with video b: (B, N_t, N_v)."""
        return self.text_unit @ self.video_unit.mT


class Level(nn.Module):
    """One grain of the hierarchy: its merge stages, token weights and student estimator."""

    def __init__(self, name: str, width: int, *, weighted: bool, rates: tuple[float, float] | None, recipe: Recipe):
        """Build a level.

        Args:
            name: of the level.
            width: D.
            weighted: learned token weights; otherwise every valid token weighs the same.
            rates: clusters per token of the text and the video merge that lead here; None at the finest level.
            recipe: see `models.recipe`.
        """
        super().__init__()
        self.name = name
        self.text_weight = TokenWeight(width) if weighted else None
        self.video_weight = TokenWeight(width) if weighted else None
        self.student = BanzhafModule()
        options = {"noise": recipe.cluster_noise, "fill_over_batch": recipe.distance_fill_over_batch}
        self.text_merge = MergeStage(width, rates[0], **options) if rates else None
        self.video_merge = MergeStage(width, rates[1], **options) if rates else None

    def merge(self, text: TokenSet, video: TokenSet) -> tuple[TokenSet, TokenSet]:
        """Lift the level below's tokens to this one's."""
        if self.text_merge is None:
            return text, video
        return text.merged(self.text_merge), video.merged(self.video_merge)

    def weigh(self, tokens: TokenSet, head: TokenWeight | None) -> tuple[Tensor, Tensor]:
        """Scores and weights (B, N) of a token set; without a head 1 / (number of valid original tokens) each."""
        if head is None:
            uniform = tokens.tokens.new_ones(tokens.tokens.shape[:2], dtype=torch.float32)
            return torch.zeros_like(uniform), uniform / tokens.lengths.unsqueeze(-1)
        score = head(tokens.tokens, tokens.mask)
        return score, score.softmax(dim=-1, dtype=torch.float32)

    def forward(self, text: TokenSet, video: TokenSet) -> LevelOutput:
        """Compare every text (A) with every video (B)."""
        text_unit, video_unit = unit(text.tokens, text.mask), unit(video.tokens, video.mask)
        text_score, text_weight = self.weigh(text, self.text_weight)
        video_score, video_weight = self.weigh(video, self.video_weight)
        sim = similarity_in_blocks(text_unit, video_unit, text_weight, video_weight)
        clusters = text.clusters, video.clusters
        return LevelOutput(self.name, sim, text_unit, video_unit, text_score, video_score, *clusters)

    def similarity(self, text: TokenSet, video: TokenSet, memory: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """`forward(...).sim`, float32 (A, B), without computing padding.

        Sequences of about the same length are compared block by block. Beside the result this takes `memory`, at least
        that of one pair, and one packed copy of `HELD` texts and their rows of the result.

        Args:
            text: A texts.
            video: B videos.
            memory: bytes that the token similarities of a block may take.
            dtype: of the matrix products; maxima of them are exact, and sums over tokens are float32.
        """
        pairs = max(1, memory // (dtype.itemsize * text.tokens.shape[1] * video.tokens.shape[1]))
        height = min(TEXTS, math.isqrt(pairs))
        words, frames = text.by_length(height), video.by_length(min(VIDEOS * 4 // dtype.itemsize, pairs // height))
        columns = torch.cat([index for index, _ in frames]).argsort()  # (B,), where each video is among them by length
        sim = text.tokens.new_empty(len(text.tokens), len(video.tokens), dtype=torch.float32)
        held = max(1, HELD // height)
        for first in range(0, len(words), held):
            packed = [self.pack(text, *chosen, self.text_weight, dtype) for chosen in words[first : first + held]]
            blocks = []
            for chosen in frames:
                videos = self.pack(video, *chosen, self.video_weight, dtype)
                blocks.append(torch.cat([packed_similarity(texts, videos) for texts in packed]))
            rows = torch.cat([texts.index for texts in packed])
            sim.index_copy_(0, rows, torch.cat(blocks, dim=1).index_select(1, columns))
        return sim

    def pack(
        self, whole: TokenSet, index: Tensor, longest: int, head: TokenWeight | None, dtype: torch.dtype
    ) -> Packed:
        """Lay out the sequences `index` of a set, with `longest` positions each, for `packed_similarity`."""
        part = whole.part(index, longest)
        with torch.autocast(index.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            weight = self.weigh(part, head)[1]
        tokens = unit(part.tokens, part.mask).to(dtype).transpose(0, 1).flatten(0, 1)
        return Packed(index, tokens, weight.mT, cut=longest < whole.tokens.shape[1])
