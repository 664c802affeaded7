"""Temporal encoders over the frames of a video.

B videos, N_v frames, D width.
"""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from models.transformer import Transformer

POSITIONS = 77


class NoTemporal(nn.Module):
    """Frame tokens as CLIP gives them."""

    max_frames = math.inf

    def forward(self, frames: Float[Tensor, "B N_v D"], mask: Shaped[Tensor, "B N_v"]) -> Float[Tensor, "B N_v D"]:
        """Return `frames` unchanged."""
        return frames


class SequenceTransformer(nn.Module):
    """CLIP's text transformer over frames with positions, added to its input (CLIP4Clip, arXiv 2104.08860)."""

    def __init__(self, width: int, layers: int, positions: int = POSITIONS):
        super().__init__()
        self.max_frames = positions
        self.positions = nn.Embedding(positions, width)
        self.transformer = Transformer(width, layers, norm_eps=1e-12)
        self.project: nn.Module = nn.Identity()  # EMCL's answer head has a linear layer here

    def forward(self, frames: Float[Tensor, "B N_v D"], mask: Shaped[Tensor, "B N_v"]) -> Float[Tensor, "B N_v D"]:
        """Encode clips of at most `max_frames`; no frame sees padding."""
        if frames.shape[1] > self.max_frames:
            raise ValueError(f"{frames.shape[1]} frames, but position embeddings for {self.max_frames}")
        x = frames + self.positions.weight.narrow(0, 0, frames.shape[1])
        return self.project(self.transformer(x, mask.bool().unsqueeze(1).unsqueeze(1))) + frames


class SequenceLSTM(nn.Module):
    """One LSTM layer over the valid frames, added to its input.

    Positions past the longest clip of the batch keep their input. The position embeddings are part of the released file
    format but unused.
    """

    max_frames = math.inf

    def __init__(self, width: int, positions: int = POSITIONS):
        super().__init__()
        self.positions = nn.Embedding(positions, width).requires_grad_(False)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, frames: Float[Tensor, "B N_v D"], mask: Shaped[Tensor, "B N_v"]) -> Float[Tensor, "B N_v D"]:
        """Encode clips whose valid frames come first."""
        lengths = mask.sum(dim=-1)  # (B,)
        states, _ = self.lstm(frames)
        step = torch.arange(frames.shape[1], device=frames.device)
        inside = (step < lengths.unsqueeze(-1)).unsqueeze(-1)  # (B, N_v, 1)
        past_all = (step >= lengths.max()).unsqueeze(-1)  # (N_v, 1)
        return frames + torch.where(inside, states, frames * past_all)


def build_temporal(
    name: str | None, width: int, layers: int, positions: int = POSITIONS
) -> SequenceTransformer | SequenceLSTM | NoTemporal:
    """Build the temporal encoder `name`: "seqTransf", "seqLSTM" or None (also "None")."""
    match name:
        case "seqTransf":
            return SequenceTransformer(width, layers, positions)
        case "seqLSTM":
            return SequenceLSTM(width, positions)
        case None | "None":
            return NoTemporal()
    raise ValueError(f"unknown temporal encoder {name!r}: choose seqTransf, seqLSTM or None")
