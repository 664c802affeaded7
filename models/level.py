"""One level of the hierarchy: entity, action and event have the same structure.

A texts, B videos or pairs, N tokens of this level, N_t words, N_v frames, N_0 original tokens, D width.
Source: HBI, arXiv 2303.14369.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
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


def scored_at_once(device: torch.device) -> int:
    """Tokens that are scored at a time in evaluation, which takes several times their memory."""
    return 1024 if device.type == "cpu" else 2**16


@dataclass(frozen=True)
class TokenSet:
    """Tokens of one modality at one level; above the entity level nothing is masked, and the mask is None."""

    tokens: Float[Tensor, "B N D"]
    mask: Shaped[Tensor, "B N"] | None
    lengths: Shaped[Tensor, " B"]  # number of valid tokens before any merge
    clusters: Clusters  # of each original token

    @classmethod
    def original(cls, tokens: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"]) -> "TokenSet":
        """Make the token set of the entity level."""
        return cls(tokens, mask, mask.sum(dim=1), Clusters.identity(tokens))

    def merged(self, stage: MergeStage) -> "TokenSet":
        """Make the token set of the next level."""
        tokens, clusters = stage(self.tokens, self.mask, self.clusters)
        return TokenSet(tokens, None, self.lengths, clusters)

    def valid(self) -> Shaped[Tensor, "B N"]:
        """The mask; ones where it is None."""
        return self.tokens.new_ones(self.tokens.shape[:2]) if self.mask is None else self.mask


@dataclass(frozen=True)
class LevelOutput:
    """All pairs at one level."""

    name: str  # "entity", "action" or "event"
    sim: Float[Tensor, "A B"]
    text_unit: Float[Tensor, "A N_t D"]  # tokens of length 1, padding 0
    video_unit: Float[Tensor, "B N_v D"]
    text_score: Float[Tensor, "A N_t"]  # the softmax gives the token weights
    video_score: Float[Tensor, "B N_v"]
    text: Clusters
    video: Clusters
    reconstruction: Reconstruction | None = None  # of the tokens in the Banzhaf game, if any

    @property
    def token_sim(self) -> Float[Tensor, "A B N_t N_v"]:
        """Token similarity of all pairs, computed on each access."""
        return token_similarity(self.text_unit, self.video_unit)

    @property
    def pair_sim(self) -> Float[Tensor, "B N_t N_v"]:
        """Token similarity of the true pairs, text b with video b."""
        if self.reconstruction is not None:
            weights = self.text_score.softmax(dim=-1), self.video_score.softmax(dim=-1)
            return self.reconstruction.pairs(self.text_unit, self.video_unit, *weights)
        return self.text_unit @ self.video_unit.mT


@dataclass(frozen=True)
class LevelInteraction:
    """True pairs at one level, for inspection."""

    name: str  # "entity", "action" or "event"
    sim: Float[Tensor, " B"]
    token_sim: Float[Tensor, "B N_t N_v"]  # cosine of each word and frame of this level
    interaction: Float[Tensor, "B N_t N_v"]  # their Banzhaf interaction
    text: Clusters
    video: Clusters


class WeightedInteraction(nn.Module):
    """Token-wise interaction of two token sets, with or without learned token weights."""

    name = "tokens"  # of the level
    reconstructs = False  # whether each pair is compared by tokens of its own

    def __init__(self, width: int, *, recipe: Recipe, weighted: bool = True, hidden: Sequence[int] | None = None):
        """Args: weighted: learned token weights, otherwise equal ones; hidden: see `TokenWeight`."""
        super().__init__()
        self.padding_in_maxima = recipe.padding_in_maxima
        self.student: nn.Module | None = None  # estimator of the Banzhaf interaction, in HBI
        self.text_weight = TokenWeight(width, hidden) if weighted else None
        self.video_weight = TokenWeight(width, hidden) if weighted else None

    def token_weights(
        self, tokens: TokenSet, side: str, *, dtype: torch.dtype = torch.float32, skip_padding: bool = False
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """Scores of texts or videos (`side`: "text" or "video"), and weights: their softmax.

        With `skip_padding` only valid tokens are scored, block by block, with matrix products in `dtype`, a host-device
        sync and no gradient.
        """
        head = getattr(self, f"{side}_weight")
        if head is None:  # 1 / (number of valid original tokens) each
            uniform = tokens.valid().float()
            return torch.zeros_like(uniform), uniform / tokens.lengths.unsqueeze(-1)
        if skip_padding:
            rows, valid = tokens.tokens.flatten(0, 1), tokens.valid().flatten().nonzero().squeeze(1)
            score = rows.new_full((len(rows),), PADDED_SCORE, dtype=torch.float32)
            with torch.autocast(rows.device.type, dtype=dtype, enabled=dtype is not torch.float32):
                for some in valid.split(scored_at_once(rows.device)):
                    score[some] = head(rows[some]).float()
            score = score.view(tokens.tokens.shape[:2])
        else:
            score = head(tokens.tokens, tokens.mask)
        return score, score.softmax(dim=-1, dtype=torch.float32)

    def compare(
        self, text: TokenSet, video: TokenSet
    ) -> tuple[Float[Tensor, "A B"], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Similarity of every text with every video, with gradient; unit tokens and token scores of both."""
        units = unit(text.tokens, text.mask), unit(video.tokens, video.mask)
        text_score, text_weight = self.token_weights(text, "text")
        video_score, video_weight = self.token_weights(video, "video")
        compared = self.compared(units[0], text.mask), self.compared(units[1], video.mask)
        return similarity_for_training(*compared, text_weight, video_weight), units, (text_score, video_score)

    def forward(self, text: TokenSet, video: TokenSet) -> LevelOutput:
        """Compare every text with every video, with gradient."""
        sim, units, scores = self.compare(text, video)
        return LevelOutput(self.name, sim, *units, *scores, text.clusters, video.clusters)

    def compared(self, units: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        """Unit tokens for the maxima: by the recipe padding is 0, or cannot be the best match."""
        return units if self.padding_in_maxima else repeat_first(units, mask)

    def similarity(
        self, text: TokenSet, video: TokenSet, memory: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "A B"]:
        """Similarity of every text with every video, without gradient; see `similarity_without_padding`."""
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
    """The merge stages that produce a level's tokens, its token weights and its student estimator."""

    student: nn.Module

    def __init__(
        self,
        name: str,
        width: int,
        *,
        weighted: bool,
        rates: Sequence[float] | None,
        recipe: Recipe,
        reconstruct: tuple[str, float] = ("none", 0.0),
    ):
        """Build a level.

        `rates` are clusters per token of the text merge and of the video merge, None at the entity level; `reconstruct`
        is scope and share, see `Reconstruction.build`.
        """
        super().__init__(width, recipe=recipe, weighted=weighted)
        self.name = name
        self.student = BanzhafModule()
        options = {"noise": recipe.cluster_noise, "fill_over_batch": recipe.distance_fill_over_batch}
        self.text_merge = MergeStage(width, rates[0], **options) if rates else None
        self.video_merge = MergeStage(width, rates[1], **options) if rates else None
        self.reconstruction = Reconstruction.build(*reconstruct)
        self.reconstructs = self.reconstruction is not None and self.reconstruction.in_scores

    def forward(self, text: TokenSet, video: TokenSet) -> LevelOutput:
        """Compare every text with every video, with gradient."""
        return replace(super().forward(text, video), reconstruction=self.reconstruction)

    def compare(
        self, text: TokenSet, video: TokenSet, memory: int = BLOCK_MEMORY
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """See `WeightedInteraction.compare`; `memory`: bytes of the token similarities of a block."""
        if self.reconstruction is None or not self.reconstructs:
            return super().compare(text, video)
        units = unit(text.tokens, text.mask), unit(video.tokens, video.mask)
        scores, weights = zip(self.token_weights(text, "text"), self.token_weights(video, "video"), strict=True)
        options = {"padding_in_maxima": self.padding_in_maxima, "memory": memory}
        return self.reconstruction.similarity([*units, *weights], **options), units, scores

    def similarity(self, text: TokenSet, video: TokenSet, memory: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See `WeightedInteraction.similarity`; reconstructed tokens are compared in float32."""
        if not self.reconstructs:
            return super().similarity(text, video, memory, dtype)
        return self.compare(text, video, memory)[0]
