"""Retrieval metrics: at which place of the ranking the right answer stands.

Dimension letters: A captions, B clips, C clips that have a caption.
"""

import torch
from torch import Tensor

from utils.errors import InputError

_RECALL_DEPTHS = (1, 5, 10, 50)
_CHUNK_CELLS = 1 << 24


def retrieval_metrics(sim: Tensor, clip_of_caption: Tensor | None = None) -> dict[str, dict[str, float]]:
    """Recall and rank of text-to-video and of video-to-text retrieval.

    Args:
        sim: (A, B) similarity of captions and clips.
        clip_of_caption: (A,) int64, the clip that each caption describes; None where caption a describes clip a.

    Returns:
        "t2v" and "v2t", each as `rank_statistics` gives them.

    Raises:
        InputError: a similarity is not finite.
        ValueError: the shapes do not fit, or a clip's number is outside 0..B-1.
    """
    return {
        "t2v": rank_statistics(text_to_video_ranks(sim, clip_of_caption)),
        "v2t": rank_statistics(video_to_text_ranks(sim, clip_of_caption)),
    }


def rank_statistics(ranks: Tensor) -> dict[str, float]:
    """Summarise ranks.

    Args:
        ranks: (N,) int64, 0 where the right answer came first; N at least 1.

    Returns:
        "R1", "R5", "R10", "R50": percent of the ranks below 1, 5, 10, 50; "MedianR", "MeanR": median (between the two
        middle ones where their number is even) and mean, counted from 1.
    """
    recalls = {f"R{depth}": percent_within(ranks, depth) for depth in _RECALL_DEPTHS}
    ranks = ranks.double()
    return {**recalls, "MedianR": ranks.quantile(0.5).item() + 1, "MeanR": ranks.mean().item() + 1}


def percent_within(ranks: Tensor, depth: int) -> float:
    """Percent of the ranks (N,), counted from 0, that are below `depth`."""
    return (ranks < depth).double().mean().item() * 100


def text_to_video_ranks(sim: Tensor, clip_of_caption: Tensor | None = None) -> Tensor:
    """How many wrong clips score at least as high as a caption's own: a tie counts against the model.

    Args:
        sim: (A, B), as in `retrieval_metrics`, which says what is raised too.
        clip_of_caption: (A,), as there.

    Returns:
        (A,) int64, from 0.
    """
    clip_of_caption = _checked(sim, clip_of_caption)
    right = sim.gather(1, clip_of_caption[:, None])  # (A, 1)
    return _count_at_least(sim, right) - 1


def video_to_text_ranks(sim: Tensor, clip_of_caption: Tensor | None = None) -> Tensor:
    """How many clips have a caption that scores at least as high as the best of a clip's own: ties count against.

    With several captions a clip, each clip is represented by the best of its captions, as the field does.

    Args:
        sim: (A, B), as in `retrieval_metrics`, which says what is raised too.
        clip_of_caption: (A,), as there.

    Returns:
        (C,) int64, from 0, for the clips that have a caption, in their order.
    """
    clip_of_caption = _checked(sim, clip_of_caption)
    clips, owner = clip_of_caption.unique(return_inverse=True)  # (C,), (A,)
    best = sim.new_full((len(clips), sim.shape[1]), -torch.inf)
    best.scatter_reduce_(0, owner[:, None].expand_as(sim), sim, "amax")
    scores = best[:, clips].T  # (C, C): of clip and the best caption of each
    return _count_at_least(scores, scores.diagonal()[:, None]) - 1


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation of two samples (n,), in [-1, 1]; 0 where one of them is constant."""
    return torch.corrcoef(torch.stack([x, y]).double())[0, 1].nan_to_num().item()


def _count_at_least(scores: Tensor, bound: Tensor) -> Tensor:
    """How many scores of each row reach its bound; compared in chunks, so that no second (A, B) matrix is held.

    Args:
        scores: (A, B).
        bound: (A, 1).

    Returns:
        (A,) int64.
    """
    rows = max(1, _CHUNK_CELLS // scores.shape[1])
    chunks = zip(scores.split(rows), bound.split(rows), strict=True)
    return torch.cat([(chunk >= lowest).sum(dim=1) for chunk, lowest in chunks])


def _checked(sim: Tensor, clip_of_caption: Tensor | None) -> Tensor:
    """The clip of each caption, once it and `sim` are known to make sense."""
    captions, clips = sim.shape
    if clip_of_caption is None:
        clip_of_caption = torch.arange(captions)
    clip_of_caption = clip_of_caption.to(sim.device)
    if clip_of_caption.shape != (captions,) or captions == 0:
        raise ValueError(f"clip_of_caption has shape {tuple(clip_of_caption.shape)}, similarity {tuple(sim.shape)}")
    if clip_of_caption.min() < 0 or clip_of_caption.max() >= clips:
        raise ValueError(f"clip_of_caption names clips outside the {clips} of the similarity")
    if not sim.sum(dtype=torch.float64).isfinite():
        raise InputError(
            f"the {captions} x {clips} similarities are not all finite numbers: the weights have diverged; "
            "train with a lower --lr or --precision fp32, or give another --init_model"
        )
    return clip_of_caption
