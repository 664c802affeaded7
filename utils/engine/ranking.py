"""Ranking a split from the scores of each process's captions with all clips.

Dimension letters: A captions of all processes, A_r those of this process, B clips, K found clips.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from utils.distributed import is_main, rank
from utils.files import atomic_write
from utils.gather import gather_shards, receive_blocks
from utils.metrics import (
    Scores,
    block_rows,
    blocks,
    percent_within,
    rank_statistics,
    sharded_ranks,
    text_to_video_ranks,
)

FOUND = 10
"""Number of clips for each caption in predictions.jsonl."""


@dataclass(frozen=True)
class Ranking:
    """A ranked split.

    Attributes:
        metrics: "t2v", "v2t", "subsets", and "plain" where scores are not the similarity.
        ranks: from 0, of both directions, and as "t2v NAME" of the subsets.
        sim: (A_r, B).
        scores: (A_r, B), by which clips are ranked.
    """

    metrics: dict
    ranks: dict[str, Tensor]
    sim: Scores
    scores: Scores


def rank_split(
    sim: Scores, scores: tuple[Scores, Scores], clip_of_caption: Tensor, subsets: Mapping[str, list[int]]
) -> Ranking:
    """Rank by scores of both directions, (A_r, B) each; all processes call it together."""
    ranks = sharded_ranks(*scores, clip_of_caption)
    parts = {name: ranks["t2v"][rows] for name, rows in subsets.items() if rows}
    metrics: dict = {side: rank_statistics(found) for side, found in ranks.items()}
    if scores[0] is not sim:
        plain = sharded_ranks(sim, sim, clip_of_caption)
        metrics["plain"] = {side: rank_statistics(found) for side, found in plain.items()}
    metrics["subsets"] = {name: rank_statistics(found) for name, found in parts.items()}
    return Ranking(metrics, ranks | {f"t2v {name}": found for name, found in parts.items()}, sim, scores[0])


def own_rows(whole: Tensor, count: int) -> Tensor:
    """This process's `count` rows of `whole` (A, B)."""
    start = int(gather_shards(torch.tensor([count]))[: rank()].sum())
    return whole[start : start + count]


def shortlist_metrics(ranking: Ranking, clips: int, checked: Tensor, best: Tensor) -> dict[str, float]:
    """How often shortlists of `clips` clips contain the right clip.

    `checked` (N, B) are similarities of some captions of all processes with shortlist, `best` (N,) the most similar of
    all clips to these captions.
    """
    inside = percent_within(text_to_video_ranks(checked, best), clips)
    return {"clips": clips, "true": percent_within(ranking.ranks["t2v"], clips), "best": inside, "checked": len(best)}


def find_best(
    ranking: Ranking, clip_of_caption: Tensor, levels: Callable[[Tensor], Iterable[tuple[str, Tensor]]]
) -> dict[str, Tensor]:
    """Find the best clips of each caption; all processes call it together.

    Args:
        ranking: of the split.
        clip_of_caption: (A,).
        levels: of clips (A_r, K + 1), yields name and similarities (A_r, K + 1) of each level.

    Returns:
        "clips" (A, K + 1), numbers of the true clip and the best ones; their "scores" (A, K + 1), and similarities by
        name of a level; on the CPU.
    """
    own, found = own_rows(clip_of_caption, len(ranking.scores)).to(ranking.scores.device), []
    for rows, block in blocks(ranking.scores):
        clips = torch.cat([own[rows, None], block.topk(min(FOUND, block.shape[1]), dim=1).indices], dim=1)
        found.append((clips, block.gather(1, clips)))
    clips, scores = map(torch.cat, zip(*found, strict=True))
    values = {"clips": clips, "scores": scores, **dict(levels(clips))}
    return {name: gather_shards(value).cpu() for name, value in values.items()}


def write_similarity(path: Path, sim: Scores) -> None:
    """Write the rows (A_r, B) of all processes to one .npy file, without holding them all; all call it together.

    Raises:
        InputError: the file cannot be written.
    """
    lengths = gather_shards(torch.tensor([len(sim)])).tolist()
    own = (block.float().cpu().contiguous() for _, block in blocks(sim) if len(block))
    if not is_main():
        for block in own:
            dist.send(block, 0)
        return
    with atomic_write(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (sum(lengths), sim.shape[1])}
        np.lib.format.write_array_header_1_0(file, header)
        for block in chain(own, receive_blocks(lengths, (block_rows(sim), sim.shape[1]))):
            file.write(block.numpy())


def write_predictions(
    path: Path, captions: list[str], names: list[str], found: Mapping[str, Tensor], ranks: Mapping[str, Tensor]
) -> None:
    """Write a line of JSON for each caption: the query, its true video and the best ones, and ranks from 1.

    `found` is the result of `find_best`; `ranks` are "t2v" (A,) and "v2t" (C,), of the clips that have a caption, in
    order. A failure is an InputError.
    """
    place = dict(zip(found["clips"][:, 0].unique().tolist(), ranks["v2t"].tolist(), strict=True))
    levels = found.keys() - {"clips", "scores"}

    def entry(row: int, column: int) -> dict:
        of_levels = {name: round(found[name][row, column].item(), 6) for name in sorted(levels)}
        clip, score = int(found["clips"][row, column]), round(found["scores"][row, column].item(), 6)
        return {"video": names[clip], "score": score, **({"levels": of_levels} if levels else {})}

    with atomic_write(path) as file:
        for row, caption in enumerate(captions):
            true, *best = (entry(row, column) for column in range(found["clips"].shape[1]))
            places = {"rank": ranks["t2v"][row].item() + 1, "video_rank": place[found["clips"][row, 0].item()] + 1}
            line = {"query": caption, **places, "true": true, "found": best}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


