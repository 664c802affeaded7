"""One level of the hierarchy: entity, action and event are the same thing at another grain.

Dimension letters: A texts, B videos or pairs, N tokens, N_t words, N_v frames, D width.
Source: HBI, arXiv 2303.14369.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.banzhaf import BanzhafModule
from models.interaction import PADDED_SCORE, TokenWeight, similarity_in_blocks, token_similarity, unit
from models.packed import Sequences, similarity_without_padding
from models.recipe import Recipe
from models.token_merge import Clusters, MergeStage

WEIGHED = 1024
"""Tokens that are weighed at a time: it takes several times their memory."""


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

    def weights(self, tokens: TokenSet, head: TokenWeight | None, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that `weigh` gives, in little memory: the head, in `dtype`, reads valid tokens alone."""
        if head is None:
            return self.weigh(tokens, head)[1]
        rows, valid = tokens.tokens.flatten(0, 1), tokens.valid().flatten().nonzero().squeeze(1)
        score = rows.new_full((len(rows),), PADDED_SCORE, dtype=torch.float32)
        with torch.autocast(rows.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            for some in valid.split(WEIGHED):
                score[some] = head(rows[some]).float()
        return score.view(tokens.tokens.shape[:2]).softmax(dim=1)

    def similarity(self, text: TokenSet, video: TokenSet, memory: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """`forward(...).sim`, float32 (A, B), without computing padding.

        Args:
            text: A texts.
            video: B videos.
            memory: see `models.packed.similarity_without_padding`, which adds to it the weights of all tokens.
            dtype: of the matrix products; maxima of them are exact, and sums over tokens are float32.
        """
        sides = (text, self.text_weight), (video, self.video_weight)
        texts, videos = (Sequences(side.tokens, side.mask, self.weights(side, head, dtype)) for side, head in sides)
        return similarity_without_padding(texts, videos, memory, dtype)
