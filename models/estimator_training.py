"""Training of the estimator: features of the frozen encoders, labels, loss.

B pairs, N_t words, N_v frames, D width.
Source: HBI, arXiv 2303.14369, section 3.3.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from models.banzhaf import LABEL_SCALE, GameOptions, exact_interaction, sampled_interaction
from models.coalitions import Pairs
from models.encoder import Tokens
from models.hbi import HBI
from models.interaction import unit
from models.level import TokenSet

FEATURES = (*Pairs._fields, "exact")


def pair_features(model: HBI, text: Tokens, video: Tokens, game: str) -> dict[str, Tensor]:
    """Arguments of `EstimatorTraining.forward` for true pairs at the entity level, without gradient.

    "token_sim" are cosines, the scores are as `game` takes them, "exact" is the interaction of cosines x `LABEL_SCALE`.
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
    """The estimator under training; its batch normalisation is never applied and stays unchanged."""

    def __init__(
        self,
        estimator: nn.Module,
        *,
        game: str = "released",
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ):
        """Args: num_samples: coalitions drawn for each cell and step, as published; None: exact labels."""
        super().__init__()
        self.teacher = estimator.requires_grad_(True)
        for module in estimator.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.game, self.num_samples, self.generator = game, num_samples, generator

    def forward(self, exact: Float[Tensor, "B N_t N_v"], **features: Tensor) -> dict[str, Tensor]:
        """Mean squared difference of labels and predictions over all cells, as "loss"; at padding both are 0."""
        label, pairs = exact, Pairs(**features)
        if self.num_samples is not None:
            players = LABEL_SCALE * pairs.token_sim, *pairs.masks(), pairs.text_score, pairs.video_score
            # `pair_features` has checked the features already: a step needs no host-device sync for that.
            options = GameOptions(generator=self.generator, check=False)
            label = sampled_interaction(*players, game=self.game, num=self.num_samples, options=options)
        return {"loss": (label - self.predict(pairs.token_sim, *pairs.masks())).square().mean()}

    def predict(
        self,
        token_sim: Float[Tensor, "B N_t N_v"],
        text_mask: Shaped[Tensor, "B N_t"],
        video_mask: Shaped[Tensor, "B N_v"],
    ) -> Float[Tensor, "B N_t N_v"]:
        """The estimator's interactions, 0 at padding."""
        return self.teacher(token_sim).float() * text_mask.unsqueeze(2) * video_mask.unsqueeze(1)

    def after_step(self) -> None:
        """Called after each optimiser step; nothing to do."""
