"""Retrieval metrics.

Dimension letters: A captions, B clips, C clips that have a caption.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.distributed import is_main, rank
from utils.errors import InputError
from utils.gather import all_reduce, gather_shards

_RECALL_DEPTHS = (1, 5, 10, 50)
_CHUNK_CELLS, _CHUNK_LINES = 1 << 20, 64


class Scores(Protocol):
    """A matrix (A, B) that is read in parts: a tensor, or an object that computes a part on access."""

    @property
    def device(self) -> torch.device: ...  # noqa: D102  # as of a tensor

    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102  # (A, B)

    def __len__(self) -> int: ...

    def __getitem__(self, part: Any, /) -> Tensor: ...


def blocks(scores: Scores) -> Iterator[tuple[slice, Tensor]]:
    """Yield all rows in blocks; without rows one empty block."""
    size = block_rows(scores)
    for first in range(0, max(len(scores), 1), size):
        rows = slice(first, first + size)
        yield rows, scores[rows]


def block_rows(scores: Scores) -> int:
    """Rows of a block: few million numbers, but enough rows for fast computation."""
    return max(_CHUNK_LINES, _CHUNK_CELLS // max(scores.shape[1], 1))


def retrieval_metrics(sim: Tensor, clip_of_caption: Tensor | None = None) -> dict[str, dict[str, float]]:
    """Recall and rank of text-to-video ("t2v") and video-to-text ("v2t") retrieval; see `rank_statistics`.

    Args:
        sim: (A, B) similarity of captions and clips.
        clip_of_caption: (A,) int64, the clip that each caption describes; None if caption a describes clip a.

    Raises:
        InputError: a similarity is not finite.
        ValueError: the shapes do not fit, or a clip's number is outside 0..B-1.
    """
    return {
        "t2v": rank_statistics(text_to_video_ranks(sim, clip_of_caption)),
        "v2t": rank_statistics(video_to_text_ranks(sim, clip_of_caption)),
    }


def rank_statistics(ranks: Tensor) -> dict[str, float]:
    """Summarise ranks (N,), counted from 0, N at least 1.

    Returns:
        "R1", "R5", "R10", "R50": percent of the ranks below 1, 5, 10, 50; "MedianR", "MeanR": median (of an even number
        the mean of the middle two) and mean, counted from 1.
    """
    recalls = {f"R{depth}": percent_within(ranks, depth) for depth in _RECALL_DEPTHS}
    ranks = ranks.double()
    return {**recalls, "MedianR": ranks.quantile(0.5).item() + 1, "MeanR": ranks.mean().item() + 1}


def percent_within(ranks: Tensor, depth: int) -> float:
    """Percent of the ranks (N,), counted from 0, that are below `depth`."""
    return (ranks < depth).double().mean().item() * 100


def text_to_video_ranks(sim: Tensor, clip_of_caption: Tensor | None = None) -> Tensor:
    """Number (A,) of wrong clips that score at least as high as a caption's own: ties count against the model.

    Arguments and errors as for `retrieval_metrics`.
    """
    return _text_ranks(sim, _checked(sim, clip_of_caption))


def video_to_text_ranks(sim: Tensor, clip_of_caption: Tensor | None = None) -> Tensor:
    """Number (C,) of other clips whose best caption scores at least as high as the best of a clip's own captions.

    C are the clips that have a caption, in order. Arguments and errors as for `retrieval_metrics`.
    """
    return _video_ranks(sim, _checked(sim, clip_of_caption))


def sharded_ranks(t2v: Scores, v2t: Scores, clip_of_caption: Tensor) -> dict[str, Tensor]:
    """Ranks "t2v" (A,) and "v2t" (C,) of both directions from the rows of each process; all call it together.

    Only ranks and the best score of each clip are exchanged, and comparisons of clips whose captions are on several
    processes.

    Args:
        t2v: (A_r, B), scores of consecutive captions, in the order of the ranks of processes.
        v2t: (A_r, B), scores by which captions are ranked for each clip.
        clip_of_caption: (A,), the clips of all processes' captions.

    Raises:
        InputError: a score on some process is not finite.
    """
    lengths = gather_shards(torch.tensor([len(t2v)]))
    start = int(lengths[: rank()].sum())
    clip_of_caption = _checked_clips(clip_of_caption, (int(lengths.sum()), t2v.shape[1]))
    totals = torch.stack([_total(scores) for scores in ((t2v,) if v2t is t2v else (t2v, v2t))]).cpu()
    _check_finite(gather_shards(totals), (len(clip_of_caption), t2v.shape[1]))
    own = slice(start, start + len(t2v))
    text_ranks = _text_ranks(t2v, clip_of_caption[own].to(t2v.device))
    return {"t2v": gather_shards(text_ranks).cpu(), "v2t": _video_ranks(v2t, clip_of_caption, own).cpu()}


def _text_ranks(sim: Scores, clip_of_caption: Tensor) -> Tensor:
    own = clip_of_caption[:, None]
    # Counts kept in a list would lie between the blocks, so that no block could have the memory of the one before.
    counts = torch.empty_like(clip_of_caption)
    for rows, block in blocks(sim):
        # A block computed twice may differ in the last bits, so a bound comes from the block that it is compared with.
        counts[rows] = (block >= block.gather(1, own[rows])).sum(dim=1)
    return counts - 1


def _video_ranks(sim: Scores, clip_of_caption: Tensor, own: slice | None = None) -> Tensor:
    """Ranks (C,) of all clips; `own` are the captions of this process's rows, None: all."""
    clips, owner = clip_of_caption.to(sim.device).unique(return_inverse=True)  # (C,), (A,)
    owner, places = owner[own or slice(None)], torch.arange(len(clips), device=sim.device)
    divided = torch.zeros(len(clips), dtype=torch.bool, device=sim.device)  # captions on several processes
    if own is not None:
        divided = all_reduce(owner.bincount(minlength=len(clips)).clamp(max=1), "sum") > 1
    counts = torch.empty_like(places)  # see `_text_ranks`
    for chosen in places.split(max(_CHUNK_LINES, _CHUNK_CELLS // (len(sim) + len(clips)))):
        counts[chosen] = _reached(sim[:, clips[chosen]], chosen, owner, divided, shared=own is not None)
    return (counts if own is None else all_reduce(counts, "sum")) - 1


def _reached(block: Tensor, chosen: Tensor, owner: Tensor, divided: Tensor, *, shared: bool) -> Tensor:
    """For each of the chosen clips, the columns of `block`, the number of clips with a caption that scores as its own.

    `owner` is the clip of each row, `divided` says which clips have captions on several processes, `shared` whether the
    captions are divided at all.
    """
    found = block.new_full((len(divided), len(chosen)), -torch.inf)
    found.scatter_reduce_(0, owner[:, None].expand(-1, len(chosen)), block, "amax")
    bound = found.gather(0, chosen[None]).squeeze(0)  # the best of each chosen clip's own captions
    if shared:
        all_reduce(bound, "max")
    reached = (found >= bound).to(torch.uint8)
    if shared and divided.any():
        reached[divided] = all_reduce(reached[divided], "max") * int(is_main())  # counted by one process
    return reached.sum(dim=0)


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation of two samples (n,), in [-1, 1]; 0 if one is constant."""
    return torch.corrcoef(torch.stack([x, y]).double())[0, 1].nan_to_num().item()


def _checked(sim: Tensor, clip_of_caption: Tensor | None) -> Tensor:
    """The clip of each caption, after checks of it and of `sim`."""
    clip_of_caption = _checked_clips(torch.arange(len(sim)) if clip_of_caption is None else clip_of_caption, sim.shape)
    _check_finite(_total(sim), sim.shape)
    return clip_of_caption.to(sim.device)


def _checked_clips(clip_of_caption: Tensor, shape: Sequence[int]) -> Tensor:
    captions, clips = shape
    if clip_of_caption.shape != (captions,) or captions == 0:
        raise ValueError(f"clip_of_caption has shape {tuple(clip_of_caption.shape)}, similarity {tuple(shape)}")
    if clip_of_caption.min() < 0 or clip_of_caption.max() >= clips:
        raise ValueError(f"clip_of_caption names clips outside the {clips} of the similarity")
    return clip_of_caption


def _total(sim: Scores) -> Tensor:
    """The sum in float64, without a float64 copy of the matrix."""
    total = torch.zeros((), dtype=torch.float64, device=sim.device)  # not a list, see `_text_ranks`
    for _, block in blocks(sim):
        total += block.sum(dtype=torch.float64)
    return total


def _check_finite(totals: Tensor, shape: Sequence[int]) -> None:
    if not totals.isfinite().all():
        raise InputError(
            f"the {shape[0]} x {shape[1]} similarities are not all finite numbers: the weights have diverged; "
            "train with a lower --lr or --precision fp32, or give another --init_model"
        )
