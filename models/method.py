"""The base class of all methods.

A texts, B videos or pairs, N_t words, N_v frames.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from models import losses
from models.clip import CLIP, MAX_LOGIT_SCALE
from models.encoder import TokenEncoder, Tokens, TokensLike
from models.export import HubModel
from models.recipe import Recipe, as_recipe
from models.released import spelling
from models.token_levels import TokenLevels, full_precision
from utils.gather import gather_features

SIMILARITY_MEMORY = 256 * 2**20  # default bytes for the token similarities of a block


@dataclass(frozen=True)
class MethodOptions:
    """Keywords of a method's constructor; a method with more of them extends this class."""

    recipe: Literal["released", "corrected"] | Recipe = "released"


class RetrievalMethod(TokenLevels, TokenEncoder, HubModel):
    """A token encoder, and a way to compare texts with videos.

    A method defines `similarity`, and if needed `losses` with the `weights` of its terms. `build` makes modules of its
    own, `reset_parameters` initialises them, `freeze` excludes parameters from training. `Options` names its keywords,
    `add_arguments` and `options_from` its flags, and `models.METHODS` registers it.
    """

    method: ClassVar[str]  # its name on the command line and in files
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    # Weight of each term of `losses` in the loss.
    weights: Mapping[str, float] = {"ce_t2v": 0.5, "ce_v2t": 0.5}
    # Settings of `utils.post_processing.query_bank_norm` for "t2v" and "v2t" where evaluation always applies it.
    bank_norms: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    # Decay of a moving average of the weights, which is evaluated as well; None: there is none.
    moment: float | None = None
    # Buffers that a checkpoint may lack, and those that are not written to it; the state of a run has them.
    optional: frozenset[str] = frozenset()
    unsaved: frozenset[str] = frozenset()
    # Horizon of the learning-rate schedule; None: the epochs of the run.
    schedule_epochs: int | None = None
    # Texts, and as many videos, whose similarities depend on each other; None: each depends on its pair alone.
    block: int | None = None
    # Maps the name of a parameter or buffer to its name in checkpoints; see `models.released`.
    released_name = staticmethod(spelling(()))

    def __init__(self, clip: CLIP, *, temporal: str | None = "seqTransf", temporal_layers: int = 4, **options: Any):
        """Build the method on CLIP's towers, other weights untrained; `options` are fields of `Options`."""
        super().__init__(clip, temporal, temporal_layers)
        self.options = self.Options(**options)
        self.recipe = as_recipe(self.options.recipe)
        self.build()
        self.reset_parameters()
        self.freeze()

    def build(self) -> None:
        """Make the modules beyond the encoder."""

    def reset_parameters(self) -> None:
        """Initialise all weights that are not CLIP's."""
        self.reset_temporal()

    def freeze(self) -> None:
        """Freeze what the method does not train, and what no term of the loss reaches."""
        self.clip.visual.conv1.requires_grad_(False)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of the method's own options."""

    @classmethod
    def options_from(cls, args: argparse.Namespace) -> dict[str, Any]:
        """Keywords of the constructor from the flags of the same names."""
        return {field.name: getattr(args, field.name) for field in fields(cls.Options) if field.name in args}

    @classmethod
    def recognises(cls, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint has the keys of this method."""
        return False

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keywords that the keys of a checkpoint determine, the temporal encoder excluded."""
        return {}

    def complete(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add untrained weights that an earlier stage's checkpoint lacks; `state` is in the released spelling."""
        return state

    def similarity(
        self,
        text: TokensLike,
        video: TokensLike,
        *,
        memory: int | None = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "A B"]:
        """Compare every text with every video; differentiable unless the method has `losses` of its own.

        `memory` are the bytes that a block's intermediate results may take (None: one block), `dtype` that of the
        matrix products.
        """
        raise NotImplementedError

    def rerank(
        self, sim: Float[Tensor, "A B"], text: TokensLike, video: TokensLike, *, memory: int = SIMILARITY_MEMORY
    ) -> tuple[Float[Tensor, "A B"], Float[Tensor, "A B"]]:
        """Turn similarities of all processes into scores for ranking videos and texts; `text` is this process's shard.

        Scores of text-to-video retrieval are comparable within a row, of video-to-text within a column.
        """
        return sim, sim

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Int[Tensor, " B"], labels: Shaped[Tensor, "B ..."] | None = None
    ) -> dict[str, Tensor]:
        """Loss terms of true pairs by name, each with a weight in `weights`; by default the contrastive loss.

        Captions of one video have equal `video_ids`; `labels` are those of the task, such as answers.
        """
        return losses.contrastive(self.similarity(text, video), self.scale, self.positives(video_ids))

    def forward(
        self,
        ids: Int[Tensor, "A N_t"],
        text_mask: Shaped[Tensor, "A N_t"],
        frames: Tensor,
        video_mask: Shaped[Tensor, "B N_v"],
        video_ids: Int[Tensor, " B"],
        video_of_text: Int[Tensor, " A"] | None = None,
        labels: Shaped[Tensor, "A ..."] | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms of a batch of true pairs, gathered over all processes, and their weighted sum "loss".

        `frames` are as in `frame_tokens`; `video_of_text` says which video belongs to each text, by default the one at
        its position.
        """
        text = Tokens(self.text_tokens(ids, text_mask), text_mask)
        video = Tokens(self.frame_tokens(frames, video_mask), video_mask)
        if video_of_text is not None:
            video, video_ids = video.select(video_of_text), video_ids.index_select(0, video_of_text)
        text, video = Tokens(*map(self.gather, text)), Tokens(*map(self.gather, video))
        labels = None if labels is None else self.gather(labels)
        return self.loss(text, video, self.gather(video_ids), labels)

    @full_precision
    def loss(self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of `losses`, and their weighted sum "loss"."""
        terms = self.losses(text, video, video_ids, labels)
        loss = reduce(add, (self.weights[name] * term for name, term in terms.items()))
        return terms | {"loss": loss}

    def gather(self, tensor: Tensor) -> Tensor:
        """Gather a tensor over all processes, with the gradient that the recipe says."""
        return gather_features(tensor, exact=self.recipe.exact_gather)

    def positives(self, video_ids: Int[Tensor, " B"]) -> Bool[Tensor, "B B"] | None:
        """Mask of the true pairs of a batch, by the recipe; None: the diagonal."""
        return None if self.recipe.same_video_negatives else losses.same_video(video_ids)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep exp(logit_scale) at 100 or below, as CLIP does; called after each optimiser step."""
        self.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Factor of the similarities in the contrastive loss."""
        return self.clip.logit_scale.exp()
