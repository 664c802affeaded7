"""What the estimator learns from: features of the frozen encoders, labels, and the loss.

B pairs, N_t words, N_v frames, D width.
Source: HBI, arXiv 2303.14369, section 3.3.
"""

import torch
from torch import Tensor, nn

from models.banzhaf import LABEL_SCALE, exact_interaction, sampled_interaction
from models.encoder import Tokens
from models.hbi import HBI
from models.interaction import unit
from models.level import TokenSet

FEATURES = ("token_sim", "text_mask", "video_mask", "text_score", "video_score", "exact")


def pair_features(model: HBI, text: Tokens, video: Tokens, game: str) -> dict[str, Tensor]:
    """Players of true pairs at the entity level, and their exact interaction; no gradient.

    Args:
        model: whose entity level weighs the tokens.
        text: B texts.
        video: B videos.
        game: "standard" or "released".

    Returns:
        `FEATURES`: "token_sim" (B, N_t, N_v), cosines; "text_mask" and "video_mask"; "text_score" (B, N_t) and
        "video_score" (B, N_v), in the form that the game takes; "exact" (B, N_t, N_v), the interaction of the cosines
        times `LABEL_SCALE`.
    """
    level = model.levels[0]
    with torch.no_grad(), torch.autocast(text.mask.device.type, enabled=False):
        token_sim = unit(*text) @ unit(*video).mT
        text_score, text_weight = level.token_weights(TokenSet.original(*text), "text")
        video_score, video_weight = level.token_weights(TokenSet.original(*video), "video")
        scores = (text_weight, video_weight) if game == "released" else (text_score, video_score)
        exact = exact_interaction(LABEL_SCALE * token_sim, text.mask, video.mask, *scores, game=game)
    return dict(zip(FEATURES, (token_sim, text.mask, video.mask, *scores, exact), strict=True))


class EstimatorTraining(nn.Module):
    """The estimator under training."""

    def __init__(
        self,
        estimator: nn.Module,
        *,
        game: str = "released",
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ):
        """Make the estimator trainable.

        Args:
            estimator: one of `models.ranked_estimator.NETWORKS`; a batch normalisation in it stays as it is.
            game: of the labels, "released" or "standard".
            num_samples: coalitions sampled for each cell and step, as published; None: exact labels.
            generator: source of the draws; None for PyTorch's own.
        """
        super().__init__()
        self.teacher = estimator.requires_grad_(True)
        for module in estimator.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.game, self.num_samples, self.generator = game, num_samples, generator

    def forward(
        self,
        token_sim: Tensor,
        text_mask: Tensor,
        video_mask: Tensor,
        text_score: Tensor,
        video_score: Tensor,
        exact: Tensor,
    ) -> dict[str, Tensor]:
        """Mean squared difference of labels and predictions over all cells; at padding both are 0.

        Args:
            token_sim: see `pair_features`.
            text_mask: see `pair_features`.
            video_mask: see `pair_features`.
            text_score: see `pair_features`.
            video_score: see `pair_features`.
            exact: see `pair_features`; not used where labels are sampled.

        Returns:
            "loss".
        """
        label = exact
        if self.num_samples is not None:
            players = LABEL_SCALE * token_sim, text_mask, video_mask, text_score, video_score
            label = sampled_interaction(*players, game=self.game, num=self.num_samples, generator=self.generator)
        return {"loss": (label - self.predict(token_sim, text_mask, video_mask)).square().mean()}

    def predict(self, token_sim: Tensor, text_mask: Tensor, video_mask: Tensor) -> Tensor:
        """The estimator's interactions (B, N_t, N_v), 0 at padding; arguments as in `pair_features`."""
        return self.teacher(token_sim).float() * text_mask.unsqueeze(2) * video_mask.unsqueeze(1)

    def after_step(self) -> None:
        """Called after each optimiser step; nothing needs bounds here."""
