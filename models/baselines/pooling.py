"""Pooling of a video's frames by a text.

Dimension letters: B videos, K texts of each, N_v frames, D width.
Source: DiCoSA, arXiv 2305.12218, and DiffusionRet, arXiv 2303.09867, as released.
"""

from torch import Tensor

from models.interaction import PADDED_SCORE


def frame_weights(scores: Tensor, mask: Tensor, temp: float, *, padding: bool) -> Tensor:
    """Weight of each frame in the pooled video, 0 at padding: softmax of scores (..., N_v) / temp.

    `mask` is broadcastable to the scores. With `padding`, padded frames take part in the softmax, and the weights of
    valid ones do not sum to 1.
    """
    if not padding:
        scores = scores.masked_fill(mask == 0, PADDED_SCORE)
    return (scores / temp).softmax(dim=-1) * mask


def pool_frames(sentences: Tensor, frames: Tensor, mask: Tensor, temp: float, *, padding: bool) -> Tensor:
    """Pool the frames (B, N_v, D), mask (B, N_v), by each of a video's sentence vectors (B, K, D): (B, K, D)."""
    weights = frame_weights(sentences @ frames.mT, mask.unsqueeze(1), temp, padding=padding)
    return weights @ frames
