"""Pooling of a video's frames by a text.

Dimension letters: N_v frames, D width.
Source: X-Pool's idea in the form of the released DiCoSA and DiffusionRet.
"""

import torch
from torch import Tensor

from models.interaction import PADDED_SCORE


def frame_weights(scores: Tensor, mask: Tensor, temp: float, *, padding: bool) -> Tensor:
    """Weight of each frame in the pooled video.

    Args:
        scores: (..., N_v), products of the sentence vector and the frames.
        mask: broadcastable to the scores, 1 for valid frames.
        temp: divides the scores.
        padding: padded frames take part in the softmax, so that the weights of the valid ones do not add up to 1.

    Returns:
        (..., N_v), 0 at padding.
    """
    if not padding:
        scores = scores.masked_fill(mask == 0, PADDED_SCORE)
    return (scores / temp).softmax(dim=-1) * mask


def pool_frames(sentence: Tensor, frames: Tensor, mask: Tensor, temp: float, *, padding: bool) -> Tensor:
    """Pool the frames (..., N_v, D), mask (..., N_v), by a sentence vector (..., D) each: (..., D)."""
    scores = torch.einsum("...fd,...d->...f", frames, sentence)
    return torch.einsum("...f,...fd->...d", frame_weights(scores, mask, temp, padding=padding), frames)
