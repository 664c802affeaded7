"""What every retrieval method has in common.

Dimension letters: A texts, B videos or pairs, N_t words, N_v frames, D width, R resolution.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from models import losses
from models.clip import CLIP, MAX_LOGIT_SCALE
from models.encoder import TokenEncoder, Tokens
from models.export import HubModel
from models.recipe import Recipe, as_recipe
from models.released import spelling
from models.token_levels import TokenLevels, full_precision
from utils.distributed import gather_features

SIMILARITY_MEMORY = 256 * 2**20
"""Default bytes for the token similarities of a block."""


@dataclass(frozen=True)
class MethodOptions:
    """Keywords of a method's constructor; a method with more of them extends this class.

    Attributes:
        recipe: "released", "corrected" or a `Recipe`.
    """

    recipe: Literal["released", "corrected"] | Recipe = "released"


class RetrievalMethod(TokenLevels, nn.Module, HubModel):
    """A token encoder, and a way to compare texts with videos.

    A method defines `similarity`, and where needed `losses` with the `weights` of its terms. Modules of its own are
    made in `build`, initialised in `reset_parameters`, and kept out of training in `freeze`. `Options` names its
    keywords, `add_arguments` and `options_from` its flags, and `models.METHODS` registers it.
    """

    method: ClassVar[str]
    """Its name on the command line and in files."""
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    weights: Mapping[str, float] = {"ce_t2v": 0.5, "ce_v2t": 0.5}
    """Weight of each term of `losses` in the loss."""
    bank_norms: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """Settings of `utils.post_processing.query_bank_norm` for "t2v" and "v2t" where evaluation always applies it."""
    moment: float | None = None
    """Decay of an average of the weights that is evaluated next to the weights themselves; None: there is none."""
    optional: frozenset[str] = frozenset()
    """Buffers that a checkpoint may lack."""
    unsaved: frozenset[str] = frozenset()
    """Buffers that checkpoints are written without; the state of a run has them."""
    schedule_epochs: int | None = None
    """Horizon of the learning-rate schedule; None: the epochs of the run."""
    block: int | None = None
    """Texts, and as many videos, whose similarities depend on each other; None: each depends on its pair alone."""

    def __init__(self, clip: CLIP, *, temporal: str | None = "seqTransf", temporal_layers: int = 4, **options: Any):
        """Build the method on CLIP's towers; weights outside CLIP start at random.

        Args:
            clip: the towers.
            temporal: see `TokenEncoder`.
            temporal_layers: see `TokenEncoder`.
            **options: fields of `Options`.
        """
        super().__init__()
        self.encoder = TokenEncoder(clip, temporal, temporal_layers)
        self.options = self.Options(**options)
        self.recipe = as_recipe(self.options.recipe)
        self.build()
        self.reset_parameters()
        self.freeze()

    def build(self) -> None:
        """Make the modules beyond the encoder."""

    def reset_parameters(self) -> None:
        """Initialise all that CLIP's weights do not."""
        self.encoder.reset_temporal()

    def freeze(self) -> None:
        """Keep out of training what the method keeps fixed, and what no term of the loss reaches."""
        self.clip.visual.conv1.requires_grad_(False)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of the method's own options."""

    @classmethod
    def options_from(cls, args: argparse.Namespace) -> dict[str, Any]:
        """Keywords of the constructor from the command line: the options that have a flag of their name."""
        return {field.name: getattr(args, field.name) for field in fields(cls.Options) if field.name in args}

    @classmethod
    def recognises(cls, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint has the keys of this method."""
        return False

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keywords that the keys of a checkpoint determine, besides the temporal encoder."""
        return {}

    def complete(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add what an earlier stage's checkpoint lacks, at its start; `state` is in the released spelling."""
        return state

    released_name = staticmethod(spelling(()))
    """Spells the name of a parameter or buffer as in checkpoints; see `models.released`."""

    def similarity(
        self,
        text: Tokens,
        video: Tokens,
        *,
        memory: int | None = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Compare every text with every video.

        Args:
            text: A texts, as `encode_text` gives them.
            video: B videos, as `encode_video` gives them.
            memory: bytes that intermediate results of a block may take; None (only without `token_levels`): one block.
            dtype: of the comparison's matrix products, float32 or bfloat16.

        Returns:
            (A, B), float32; differentiable unless the method has `losses` of its own.
        """
        raise NotImplementedError

    def rerank(
        self, sim: Tensor, text: Tokens, video: Tokens, *, memory: int = SIMILARITY_MEMORY
    ) -> tuple[Tensor, Tensor]:
        """Turn similarities into the scores that videos and texts are ranked by; by default these are the same.

        Args:
            sim: (A, B), similarity of the texts of all processes with all videos.
            text: this process's texts.
            video: all B videos.
            memory: see `similarity`.

        Returns:
            Scores (A, B) of text-to-video retrieval, comparable within a row, and of video-to-text retrieval,
            comparable within a column.
        """
        return sim, sim

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss terms of true pairs, text b with video b; by default the contrastive loss of `similarity`.

        Args:
            text: B texts.
            video: B videos.
            video_ids: int64 (B,), equal for captions of one video.
            labels: (B, ...), what a task asks of each pair, such as the answer to a question.

        Returns:
            The terms by name; `weights` has one for each.
        """
        return losses.contrastive(self.similarity(text, video), self.scale, self.positives(video_ids))

    def forward(
        self,
        ids: Tensor,
        text_mask: Tensor,
        frames: Tensor,
        video_mask: Tensor,
        video_ids: Tensor,
        video_of_text: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms of a batch of true pairs, gathered over all processes.

        Args:
            ids: int64 (A, N_t).
            text_mask: (A, N_t).
            frames: of B videos, see `TokenEncoder.frame_tokens`.
            video_mask: (B, N_v).
            video_ids: int64 (B,), equal for captions of one video.
            video_of_text: int64 (A,), which of the B videos belongs to each text; None: the one at its position.
            labels: (A, ...), see `losses`.

        Returns:
            Every term by name, and their weighted sum "loss".
        """
        text = Tokens(self.text_tokens(ids, text_mask), text_mask)
        video = Tokens(self.frame_tokens(frames, video_mask), video_mask)
        if video_of_text is not None:
            video, video_ids = video.select(video_of_text), video_ids.index_select(0, video_of_text)
        text, video = Tokens(*map(self.gather, text)), Tokens(*map(self.gather, video))
        labels = None if labels is None else self.gather(labels)
        return self.loss(text, video, self.gather(video_ids), labels)

    @full_precision
    def loss(
        self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of `losses`, and their weighted sum "loss"."""
        terms = self.losses(text, video, video_ids, labels)
        return terms | {"loss": sum(self.weights[name] * term for name, term in terms.items())}

    def gather(self, tensor: Tensor) -> Tensor:
        """Gather a tensor over all processes, with the gradient that the recipe says."""
        return gather_features(tensor, exact=self.recipe.exact_gather)

    def positives(self, video_ids: Tensor) -> Tensor | None:
        """Which pairs of a batch count as true besides the diagonal, by the recipe: boolean (B, B) or None."""
        return None if self.recipe.same_video_negatives else losses.same_video(video_ids)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep exp(logit_scale) at 100 or below, as CLIP does; called after each optimiser step."""
        self.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    @property
    def clip(self) -> CLIP:
        """The towers."""
        return self.encoder.clip

    @property
    def temporal(self) -> nn.Module:
        """The temporal encoder."""
        return self.encoder.temporal

    @property
    def max_frames(self) -> float:
        """Longest clip in frames."""
        return self.temporal.max_frames

    @property
    def scale(self) -> Tensor:
        """Factor of the similarities in the contrastive loss."""
        return self.clip.logit_scale.exp()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

    def text_tokens(self, ids: Tensor, text_mask: Tensor) -> Tensor:
        """See `TokenEncoder.text_tokens`."""
        return self.encoder.text_tokens(ids, text_mask)

    def frame_tokens(self, frames: Tensor, video_mask: Tensor) -> Tensor:
        """See `TokenEncoder.frame_tokens`."""
        return self.encoder.frame_tokens(frames, video_mask)

    def encode_text(self, *arguments: Any, **options: Any) -> Tokens:
        """See `TokenEncoder.encode_text`."""
        return self.encoder.encode_text(*arguments, **options)

    def encode_video(self, *arguments: Any, **options: Any) -> Tokens:
        """See `TokenEncoder.encode_video`."""
        return self.encoder.encode_video(*arguments, **options)
