"""One level of the hierarchy: entity, action and event have the same structure.

Dimension letters: A texts, B videos or pairs, N tokens, N_t words, N_v frames, D width.
Source: HBI, arXiv 2303.14369.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.banzhaf import BanzhafModule
from models.interaction import (
    BLOCK_MEMORY,
    PADDED_SCORE,
    TokenWeight,
    repeat_first,
    similarity_for_training,
    token_similarity,
    unit,
)
from models.recipe import Recipe
from models.reconstruction import Reconstruction
from models.similarity import Sequences, similarity_without_padding
from models.token_merge import Clusters, MergeStage

SCORED = 1024
"""Tokens that are scored at a time: it takes several times their memory."""


@dataclass(frozen=True)
class TokenSet:
    """One modality at one level.

    Attributes:
        tokens: (B, N, D).
        mask: (B, N), 1 for valid tokens; None above the entity level, where the method masks nothing.
        lengths: (B,), number of valid tokens before any merge.
        clusters: cluster of each original token.
    """

    tokens: Tensor
    mask: Tensor | None
    lengths: Tensor
    clusters: Clusters

    @classmethod
    def original(cls, tokens: Tensor, mask: Tensor) -> "TokenSet":
        """The set of the entity level: tokens (B, N, D), mask (B, N)."""
        return cls(tokens, mask, mask.sum(dim=1), Clusters.identity(tokens))

    def merged(self, stage: MergeStage) -> "TokenSet":
        """The set of the next level."""
        tokens, clusters = stage(self.tokens, self.mask, self.clusters)
        return TokenSet(tokens, None, self.lengths, clusters)

    def valid(self) -> Tensor:
        """The mask (B, N), ones where the level masks nothing."""
        return self.tokens.new_ones(self.tokens.shape[:2]) if self.mask is None else self.mask


@dataclass(frozen=True)
class LevelOutput:
    """All pairs at one level.

    Attributes:
        name: "entity", "action" or "event".
        sim: (A, B) similarity.
        text_unit, video_unit: (A, N_t, D) and (B, N_v, D), tokens of length 1, padding 0; N_t and N_v counted at this
            level.
        text_score, video_score: (A, N_t) and (B, N_v), the scores whose softmax weighs the tokens.
        text, video: `Clusters`, which token of this level each original word and frame is in.
        reconstruction: of the tokens that play the Banzhaf game; None: they are as they are.
    """

    name: str
    sim: Tensor
    text_unit: Tensor
    video_unit: Tensor
    text_score: Tensor
    video_score: Tensor
    text: Clusters
    video: Clusters
    reconstruction: Reconstruction | None = None

    @property
    def token_sim(self) -> Tensor:
        """Token similarity of all pairs (A, B, N_t, N_v), computed on request: training never holds it whole."""
        return token_similarity(self.text_unit, self.video_unit)

    @property
    def pair_sim(self) -> Tensor:
        """Token similarity of the true pairs, text b with video b: (B, N_t, N_v)."""
        if self.reconstruction is not None:
            weights = self.text_score.softmax(dim=-1), self.video_score.softmax(dim=-1)
            return self.reconstruction.pairs(self.text_unit, self.video_unit, *weights)
        return self.text_unit @ self.video_unit.mT


@dataclass(frozen=True)
class LevelInteraction:
    """True pairs at one level, for inspection.

    Attributes:
        name: "entity", "action" or "event".
        sim: (B,) similarity of each pair.
        token_sim, interaction: (B, N_t, N_v), cosine and Banzhaf interaction of each word and frame of this level.
        text, video: `Clusters` of the original words and frames.
    """

    name: str
    sim: Tensor
    token_sim: Tensor
    interaction: Tensor
    text: Clusters
    video: Clusters


class WeightedInteraction(nn.Module):
    """Token-wise interaction of two token sets, with or without learned token weights.

    Attributes:
        name: of the level.
        student: estimator of the Banzhaf interaction; None outside of HBI.
    """

    name = "tokens"

    def __init__(self, width: int, *, recipe: Recipe, weighted: bool = True, hidden: Sequence[int] | None = None):
        """Build the heads.

        Args:
            width: D.
            recipe: see `models.recipe`.
            weighted: learned token weights; otherwise all valid tokens have the same weight.
            hidden: see `TokenWeight`.
        """
        super().__init__()
        self.padding_in_maxima = recipe.padding_in_maxima
        self.student: nn.Module | None = None
        self.text_weight = TokenWeight(width, hidden) if weighted else None
        self.video_weight = TokenWeight(width, hidden) if weighted else None

    def token_weights(
        self, tokens: TokenSet, side: str, *, dtype: torch.dtype = torch.float32, skip_padding: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Scores (B, N) of a token set, and weights: their softmax.

        Args:
            tokens: B texts or videos.
            side: "text" or "video".
            dtype: of the matrix products.
            skip_padding: score valid tokens only, `SCORED` at a time; needs a host-device sync and gives no gradient.
        """
        head = getattr(self, f"{side}_weight")
        if head is None:  # 1 / (number of valid original tokens) each
            uniform = tokens.valid().float()
            return torch.zeros_like(uniform), uniform / tokens.lengths.unsqueeze(-1)
        if skip_padding:
            rows, valid = tokens.tokens.flatten(0, 1), tokens.valid().flatten().nonzero().squeeze(1)
            score = rows.new_full((len(rows),), PADDED_SCORE, dtype=torch.float32)
            with torch.autocast(rows.device.type, dtype=dtype, enabled=dtype is not torch.float32):
                for some in valid.split(SCORED):
                    score[some] = head(rows[some]).float()
            score = score.view(tokens.tokens.shape[:2])
        else:
            score = head(tokens.tokens, tokens.mask)
        return score, score.softmax(dim=-1, dtype=torch.float32)

    def compare(
        self, text: TokenSet, video: TokenSet
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Similarity (A, B) of every text with every video, with gradient; unit tokens and token scores of both."""
        units = unit(text.tokens, text.mask), unit(video.tokens, video.mask)
        text_score, text_weight = self.token_weights(text, "text")
        video_score, video_weight = self.token_weights(video, "video")
        compared = self.compared(units[0], text.mask), self.compared(units[1], video.mask)
        return similarity_for_training(*compared, text_weight, video_weight), units, (text_score, video_score)

    def compared(self, units: Tensor, mask: Tensor | None) -> Tensor:
        """Unit tokens (B, N, D) as the maxima see them: padding is 0, or cannot be the best match."""
        return units if self.padding_in_maxima else repeat_first(units, mask)

    def forward(self, text: TokenSet, video: TokenSet) -> LevelOutput:
        """Compare every text (A) with every video (B), with gradient."""
        sim, units, scores = self.compare(text, video)
        return LevelOutput(self.name, sim, *units, *scores, text.clusters, video.clusters)

    def similarity(self, text: TokenSet, video: TokenSet, memory: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Similarity of every text with every video, float32 (A, B), without computing padding and without gradient.

        Args:
            text: A texts.
            video: B videos.
            memory: see `models.similarity.similarity_without_padding`; the weights of all tokens come on top of it.
            dtype: of the matrix products; maxima of them are exact, and sums over tokens are float32.
        """
        texts, videos = (
            Sequences(
                tokens.tokens,
                tokens.mask,
                self.token_weights(tokens, side, dtype=dtype, skip_padding=True)[1],
                self.padding_in_maxima,
            )
            for side, tokens in (("text", text), ("video", video))
        )
        return similarity_without_padding(texts, videos, memory, dtype)


class Level(WeightedInteraction):
    """The merge stages that lead into a level, its token weights and its student estimator."""

    def __init__(
        self,
        name: str,
        width: int,
        *,
        weighted: bool,
        rates: tuple[float, float] | None,
        recipe: Recipe,
        reconstruct: tuple[str, float] = ("none", 0.0),
    ):
        """Build a level.

        Args:
            name: of the level.
            width: D.
            weighted: learned token weights; otherwise all valid tokens have the same weight.
            rates: clusters per token of the text and the video merge into this level; None at the entity level.
            recipe: see `models.recipe`.
            reconstruct: scope and share, see `Reconstruction.build`.
        """
        super().__init__(width, recipe=recipe, weighted=weighted)
        self.name = name
        self.student = BanzhafModule()
        options = {"noise": recipe.cluster_noise, "fill_over_batch": recipe.distance_fill_over_batch}
        self.text_merge = MergeStage(width, rates[0], **options) if rates else None
        self.video_merge = MergeStage(width, rates[1], **options) if rates else None
        self.reconstruction = Reconstruction.build(*reconstruct)

    def forward(self, text: TokenSet, video: TokenSet) -> LevelOutput:
        """Compare every text (A) with every video (B), with gradient."""
        return replace(super().forward(text, video), reconstruction=self.reconstruction)

    def compare(
        self, text: TokenSet, video: TokenSet, memory: int = BLOCK_MEMORY
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """See `WeightedInteraction.compare`; `memory`: bytes of the token similarities that are kept at a time."""
        if self.reconstruction is None or not self.reconstruction.in_scores:
            return super().compare(text, video)
        units = unit(text.tokens, text.mask), unit(video.tokens, video.mask)
        scores, weights = zip(self.token_weights(text, "text"), self.token_weights(video, "video"), strict=True)
        options = {"padding_in_maxima": self.padding_in_maxima, "memory": memory}
        return self.reconstruction.similarity([*units, *weights], **options), units, scores

    def similarity(self, text: TokenSet, video: TokenSet, memory: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See `WeightedInteraction.similarity`; reconstructed tokens are compared in float32."""
        if self.reconstruction is None or not self.reconstruction.in_scores:
            return super().similarity(text, video, memory, dtype)
        return self.compare(text, video, memory)[0]
