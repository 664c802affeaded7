"""CLIP4Clip: a sentence vector against the mean of the frames, or against all frames in one transformer.

Dimension letters: A texts, B videos or pairs, N_v frames, D width, R resolution.
Source: CLIP4Clip, arXiv 2104.08860, in the form of the released code (see `models.recipe`).
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models import losses
from models.baselines.cross import LAYERS, NAMES, PairEncoder, layers_of
from models.clip import CLIP
from models.encoder import Tokens, TokensLike
from models.method import SIMILARITY_MEMORY, MethodOptions, RetrievalMethod, full_precision
from models.released import spelling
from utils.arguments import COUNT, add_ineffective_arguments
from utils.errors import InputError
from utils.schema import Size

TEMPORAL = {"meanP": None, "seqLSTM": "seqLSTM", "seqTransf": "seqTransf", "tightTransf": None}
"""The temporal encoder of each similarity header."""
INEFFECTIVE = (
    "--loose_type", "--n_pair", "--margin", "--hard_negative_rate", "--negative_weighting", "--use_mil",
    "--sampled_use_mil", "--lr_decay", "--video_dim", "--text_num_hidden_layers", "--visual_num_hidden_layers",
    "--fp16", "--fp16_opt_level", "--do_lower_case", "--do_pretrain", "--expand_msrvtt_sentences",
)  # fmt: skip


@dataclass(frozen=True)
class CLIP4ClipOptions(MethodOptions):
    """Keywords of `CLIP4Clip`.

    Attributes:
        sim_header: a key of `TEMPORAL`; it chooses the temporal encoder, or for tightTransf the pair encoder.
        linear_patch: "2d", or "3d" for patches that reach over three frames.
        freeze_layer_num: lowest blocks of both towers that are frozen, with the embeddings; -1 trains all.
        cross_num_hidden_layers: blocks of the pair encoder.
    """

    sim_header: str = "meanP"
    linear_patch: str = "2d"
    freeze_layer_num: int = 0
    cross_num_hidden_layers: Size = LAYERS

    def __post_init__(self) -> None:
        if self.sim_header not in TEMPORAL or self.linear_patch not in ("2d", "3d"):
            raise ValueError(f"unknown sim_header {self.sim_header!r} or linear_patch {self.linear_patch!r}")


class CLIP4Clip(RetrievalMethod):
    """Text-video retrieval by one sentence vector and pooled frames."""

    method = "clip4clip"
    Options = CLIP4ClipOptions
    options: CLIP4ClipOptions
    released_name = staticmethod(spelling(NAMES))

    def __init__(self, clip: CLIP, *, sim_header: str = "meanP", temporal: str | None = None, **options: Any):
        """Build the method; `sim_header` says the temporal encoder, which `temporal` may only repeat."""
        expected = TEMPORAL.get(sim_header)
        if temporal not in (None, "None", expected):
            raise InputError(f"sim_header {sim_header} has the temporal encoder {expected}, not {temporal}")
        super().__init__(clip, temporal=expected, sim_header=sim_header, **options)

    def build(self) -> None:
        """Make the pair encoder, and the patches over three frames."""
        config, options, self.pairs = self.clip.config, self.options, None
        if options.sim_header == "tightTransf":
            self.pairs = PairEncoder(config.embed_dim, options.cross_num_hidden_layers, config.context_length)
        if options.linear_patch == "2d" and self.clip.visual.conv2 is not None:
            raise InputError("linear_patch 2d: these weights have patches of 3d; give linear_patch 3d")
        if options.linear_patch == "3d" and self.clip.visual.conv2 is None:
            self.clip.visual.add_tubes()

    @property
    def max_frames(self) -> float:
        """Longest clip in frames."""
        return super().max_frames if self.pairs is None else self.pairs.max_frames

    def reset_parameters(self) -> None:
        """Initialise the temporal encoder and the pair encoder from CLIP's text tower."""
        super().reset_parameters()
        if self.pairs is not None:
            self.pairs.reset_parameters(self.clip)

    def freeze(self) -> None:
        """Freeze the lower layers of both towers, and what no term of the loss reaches."""
        layers, tubes = self.options.freeze_layer_num, self.options.linear_patch == "3d"
        if tubes:
            self.clip.visual.conv1.requires_grad_(False)
        if self.pairs is not None:
            self.clip.logit_scale.requires_grad_(False)
        if not (tubes and self.recipe.nothing_frozen_with_3d):
            self.clip.freeze(layers)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of CLIP4Clip; frames are those of the cv2 rule, without augmentation."""
        parser.set_defaults(frame_rule="cv2", augment="none")
        group = parser.add_argument_group("CLIP4Clip")
        group.add_argument("--sim_header", choices=tuple(TEMPORAL), default="meanP", help="how frames are compared")
        group.add_argument("--linear_patch", choices=("2d", "3d"), default="2d", help="one frame or three in a patch")
        group.add_argument("--freeze_layer_num", type=int, default=0,
                           help="lowest blocks of CLIP's towers that are frozen, with the embeddings; -1 trains all")
        group.add_argument("--cross_num_hidden_layers", type=COUNT, default=LAYERS, help="layers of tightTransf")
        add_ineffective_arguments(parser, *INEFFECTIVE)

    @classmethod
    def options_from(cls, args: argparse.Namespace) -> dict[str, Any]:
        """Keywords of the constructor from the command line."""
        return super().options_from(args) | {"temporal": TEMPORAL[args.sim_header]}

    @classmethod
    def recognises(cls, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint has CLIP and at most a temporal encoder and a pair encoder."""
        parts = {name.partition(".")[0] for name in state}
        return "clip" in parts and parts <= {"clip", "frame_position_embeddings", "transformerClip", "lstm_visual"} or (
            parts == {"clip", "cross", "similarity_dense"}
        )

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """`sim_header` and `linear_patch` from the keys of a checkpoint."""
        options = {"linear_patch": "3d" if "clip.visual.conv2.weight" in state else "2d"}
        if layers := layers_of(state):
            return options | {"sim_header": "tightTransf", "cross_num_hidden_layers": layers}
        headers = {"lstm_visual": "seqLSTM", "transformerClip": "seqTransf"}
        found = (headers.get(name.partition(".")[0]) for name in state)
        return options | {"sim_header": next(filter(None, found), "meanP")}

    def frame_tokens(self, frames: Tensor, video_mask: Tensor) -> Tensor:
        """See `TokenEncoder.frame_tokens`; 3d patches also reach into padding, which is zeros."""
        if self.options.linear_patch == "2d":
            return super().frame_tokens(frames, video_mask)
        frames, valid = self.clip.normalize(frames), video_mask.bool()
        clips = frames.new_zeros(*video_mask.shape, *frames.shape[-3:])
        clips[valid] = frames[valid] if frames.dim() == 5 else frames
        return self.temporal(self.clip.visual.encode_clips(clips), video_mask).float()

    @full_precision
    def similarity(
        self,
        text: TokensLike,
        video: TokensLike,
        *,
        memory: int | None = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Cosine (A, B) of sentence and mean frame; for tightTransf the score of the pair."""
        text, video = Tokens(*text), Tokens(*video)
        if self.pairs is not None:
            return self.pairs.similarity(text, video, memory, dtype)
        return cosine_with_mean(text, video, dtype, unit_frames=self.recipe.unit_frames_in_mean)

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Contrastive terms; tightTransf has no scale."""
        if self.pairs is None:
            return super().losses(text, video, video_ids)
        compare = self.pairs.similarity if self.recipe.own_negatives_in_tight else self.pairs.sharded
        sim = compare(text, video, SIMILARITY_MEMORY)
        return losses.contrastive(sim, torch.ones_like(self.scale), self.positives(video_ids))

    def gather(self, tensor: Tensor) -> Tensor:
        """Gather a tensor over all processes; the released tightTransf compares those of its own process alone."""
        if self.pairs is not None and self.recipe.own_negatives_in_tight:
            return tensor
        return super().gather(tensor)


def cosine_with_mean(text: Tokens, video: Tokens, dtype: torch.dtype, *, unit_frames: bool) -> Tensor:
    """Cosine (A, B) of every sentence vector with the mean of every video's valid frames; 0 without valid frames.

    `dtype` is that of the matrix product; `unit_frames` averages unit vectors.
    """
    sentence = F.normalize(text.last(), dim=-1).to(dtype)
    return (sentence @ mean_frame(video, unit_frames=unit_frames).to(dtype).mT).float()


def mean_frame(video: Tokens, *, unit_frames: bool) -> Tensor:
    """Unit vector along the mean of the valid frames, or of their unit vectors: (B, D)."""
    frames = F.normalize(video.tokens, dim=-1) if unit_frames else video.tokens
    return F.normalize(torch.einsum("bn,bnd->bd", video.mask.to(frames.dtype), frames), dim=-1)
