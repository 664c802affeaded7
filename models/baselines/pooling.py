"""Pooling of a video's frames by a text.

Dimension letters: B videos, K texts of each, N_v frames, D width.
Source: DiCoSA, arXiv 2305.12218, and DiffusionRet, arXiv 2303.09867, as released.
"""

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


def pool_frames(sentences: Tensor, frames: Tensor, mask: Tensor, temp: float, *, padding: bool) -> Tensor:
    """Pool the frames (B, N_v, D), mask (B, N_v), by each of a video's sentence vectors (B, K, D): (B, K, D)."""
    weights = frame_weights(sentences @ frames.mT, mask.unsqueeze(1), temp, padding=padding)
    return weights @ frames
