"""Captions and clips to tokens: CLIP's towers and the temporal encoder.

A texts, B videos, N tokens, N_t words, N_v frames, D width, R resolution, M valid frames of all videos.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor, nn

from models.clip import CLIP
from models.temporal import build_temporal
from models.tokenizer import Tokenizer


class Tokens(NamedTuple):
    """Tokens of texts or videos, and a mask: 1 for valid tokens, which come first, and 0 for padding."""

    tokens: Float[Tensor, "B N D"]
    mask: Shaped[Tensor, "B N"]

    def select(self, index: Int[Tensor, " C"]) -> "Tokens":
        """The texts or videos at the positions `index`."""
        return Tokens(self.tokens.index_select(0, index), self.mask.index_select(0, index))

    def last(self) -> Float[Tensor, "B D"]:
        """The last valid token; for captions this is CLIP's sentence vector."""
        last = self.mask.sum(dim=1).sub(1).clamp(min=0)
        return self.tokens.gather(1, last[:, None, None].expand(-1, -1, self.tokens.shape[2])).squeeze(1)

    def sentences(self) -> "Tokens":
        """The `last` token of each text alone: tokens (B, D), mask (B)."""
        return Tokens(self.last(), self.mask.any(dim=1))


TokensLike = Tokens | tuple[Tensor, Tensor]  # what methods take from callers


class TokenEncoder(nn.Module):
    """CLIP's towers, and a temporal encoder over the frames."""

    def __init__(self, clip: CLIP, temporal: str | None = "seqTransf", temporal_layers: int = 4):
        """Args: temporal: "seqTransf", "seqLSTM" or None; temporal_layers: blocks of seqTransf."""
        super().__init__()
        self.clip = clip
        self.temporal = build_temporal(temporal, clip.config.embed_dim, temporal_layers, clip.config.context_length)

    def reset_temporal(self) -> None:
        """Initialise the temporal encoder as CLIP4Clip does: a transformer from CLIP's text tower."""
        self.temporal.apply(init_normal)
        if hasattr(self.temporal, "transformer"):
            copy_text_tower(self.temporal, self.clip)

    def text_tokens(self, ids: Int[Tensor, "A N_t"], mask: Shaped[Tensor, "A N_t"]) -> Float[Tensor, "A N_t D"]:
        """Encode captions to word tokens."""
        return self.clip.encode_text(ids, mask).float()

    def frame_tokens(
        self, frames: Num[Tensor, "B N_v 3 R R"] | Num[Tensor, "M 3 R R"], mask: Shaped[Tensor, "B N_v"]
    ) -> Float[Tensor, "B N_v D"]:
        """Encode clips, temporal encoder included.

        Frames are uint8 or normalised floats, padded (B, N_v, ...) or packed: the valid frames of all clips in order.
        Padded frames are zeros after normalisation, so one of them is encoded with packed frames.
        """
        if frames.dim() == 5:
            pixels, valid = self.clip.normalize(frames), mask.view(*mask.shape, 1, 1, 1)
            pixels = pixels * valid.to(frames.dtype) if pixels is frames else pixels.mul_(valid)
            tokens = self.clip.encode_frames(pixels.flatten(0, 1)).unflatten(0, mask.shape)
        else:
            pixels = self.clip.normalize(frames, zeros=int(len(frames) < mask.numel()))
            place = mask.flatten().cumsum(dim=0).sub(1).view_as(mask)
            last = len(pixels) - 1
            tokens = F.embedding(place.where(mask.bool(), last), self.clip.encode_frames(pixels))
        return self.temporal(tokens, mask).float()

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str], max_words: int = 32) -> Tokens:
        """Tokenise and encode sentences; N_t is `max_words`."""
        ids, mask = (x.to(self.device) for x in Tokenizer()(captions, max_words))
        return Tokens(self.text_tokens(ids, mask), mask)

    @torch.no_grad()
    def encode_video(
        self,
        paths: Sequence[str | Path] | str | Path,
        max_frames: int = 12,
        framerate: float = 1,
        *,
        start: float | None = None,
        end: float | None = None,
    ) -> Tokens:
        """Decode video files, or one, and encode them to frame tokens.

        Takes `framerate` frames a second from second `start` to `end`; of more than `max_frames` (N_v), evenly spaced
        ones. An unreadable file is an InputError.
        """
        from utils.video.decode import decode_clip  # a model without videos needs no decoder
        from utils.video.transforms import ClipTransform

        paths = [paths] if isinstance(paths, str | Path) else paths
        transform = ClipTransform(self.clip.config.resolution)
        sampling = {"max_frames": max_frames, "framerate": framerate, "start": start, "end": end}
        clips = [transform(decode_clip(path, **sampling)) for path in paths]
        lengths = torch.tensor([len(clip) for clip in clips])
        mask = (torch.arange(max_frames) < lengths[:, None]).long().to(self.device)
        return Tokens(self.frame_tokens(torch.cat(clips).to(self.device), mask), mask)

    @property
    def max_frames(self) -> float:
        """Longest clip in frames."""
        return self.temporal.max_frames

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device


def init_normal(module: nn.Module) -> None:
    """Initialise a Linear or Embedding layer with normal(0, 0.02) and zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.no_grad()
def copy_text_tower(module: Any, clip: CLIP) -> None:
    """Copy CLIP's text positions and first text blocks into `positions` and `transformer`, where the widths agree."""
    if clip.config.text_width != clip.config.embed_dim:
        return
    module.positions.weight.copy_(clip.positional_embedding)
    for block, source in zip(module.transformer.resblocks, clip.transformer.resblocks, strict=False):
        block.load_state_dict(source.state_dict())
