"""One level of the hierarchy: entity, action and event are the same thing at another grain.

Dimension letters: A texts, B videos or pairs, N tokens, N_t words, N_v frames, D width.
Source: HBI, arXiv 2303.14369.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.banzhaf import BanzhafModule
from models.interaction import TokenWeight, token_similarity, unit, weighted_similarity
from models.recipe import Recipe
from models.token_merge import Clusters, MergeStage


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
        token_sim: (A, B, N_t, N_v) token similarity, N_t and N_v counted at this level.
        text_score, video_score: (A, N_t) and (B, N_v), the scores whose softmax weighs the tokens.
        text, video: `Clusters`, which token of this level each original word and frame is in.
    """

    name: str
    sim: Tensor
    token_sim: Tensor
    text_score: Tensor
    video_score: Tensor
    text: Clusters
    video: Clusters


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
        token_sim = token_similarity(text.tokens, video.tokens, text.mask, video.mask)
        text_score, text_weight = self.weigh(text, self.text_weight)
        video_score, video_weight = self.weigh(video, self.video_weight)
        sim = weighted_similarity(token_sim, text_weight, video_weight)
        return LevelOutput(self.name, sim, token_sim, text_score, video_score, text.clusters, video.clusters)

    def similarity(self, text: TokenSet, video: TokenSet, memory: int) -> Tensor:
        """`forward(...).sim` (A, B) with at most `memory` bytes of token similarities at a time."""
        text_unit, video_unit = unit(text.tokens, text.mask), unit(video.tokens, video.mask)
        text_weight, video_weight = self.weigh(text, self.text_weight)[1], self.weigh(video, self.video_weight)[1]
        pair_bytes = 4 * text_unit.shape[1] * video_unit.shape[1]
        videos = max(1, min(len(video_unit), memory // pair_bytes))
        texts = max(1, memory // (pair_bytes * videos))
        rows = []
        for word, word_weight in zip(text_unit.split(texts), text_weight.split(texts), strict=True):
            blocks = zip(video_unit.split(videos), video_weight.split(videos), strict=True)
            rows.append(
                torch.cat(
                    [
                        weighted_similarity(torch.einsum("atd,bvd->abtv", word, frame), word_weight, frame_weight)
                        for frame, frame_weight in blocks
                    ],
                    dim=1,
                )
            )
        return torch.cat(rows)
