import json
import statistics
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import metrics
from utils.errors import InputError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text())


def golden_matrix(name):
    case = GOLDEN[name]
    draws = np.random.RandomState(zlib.crc32(f"input.{name}.sim".encode())).standard_normal((case["n"], case["n"]))
    sim = (draws + case["diagonal_bonus"] * np.eye(case["n"])).astype(np.float32)
    for row, column in case["row_ties"]:
        sim[row, column] = sim[row, row]
    for row, column in case["column_ties"]:
        sim[row, column] = sim[column, column]
    return torch.from_numpy(sim)


def naive_statistics(ranks):
    recalls = {f"R{depth}": 100 * sum(rank < depth for rank in ranks) / len(ranks) for depth in (1, 5, 10, 50)}
    return {**recalls, "MedianR": statistics.median(ranks) + 1, "MeanR": statistics.fmean(ranks) + 1}


def naive_metrics(sim, clip_of_caption):
    """Ranks by going through every caption and clip; a tie is lost."""
    sim, owners = sim.tolist(), clip_of_caption.tolist()
    by_text = [
        sum(score >= row[owner] for clip, score in enumerate(row) if clip != owner)
        for row, owner in zip(sim, owners, strict=True)
    ]
    by_video = []
    for clip in sorted(set(owners)):
        best = {}
        for row, owner in zip(sim, owners, strict=True):
            best[owner] = max(best.get(owner, -2), row[clip])
        by_video.append(sum(score >= best[clip] for owner, score in best.items() if owner != clip))
    return {"t2v": naive_statistics(by_text), "v2t": naive_statistics(by_video)}


def test_matrix_without_ties_gives_the_recorded_metrics():
    sim = golden_matrix("m2")
    result = metrics.retrieval_metrics(sim)
    for direction, ranks in (("t2v", metrics.text_to_video_ranks(sim)), ("v2t", metrics.video_to_text_ranks(sim))):
        recorded = GOLDEN["m2"][direction]
        assert ranks.tolist() == recorded["cols"]
        assert result[direction] == pytest.approx({name: recorded[name] for name in result[direction]}, rel=1e-14)


def test_ties_take_the_worst_of_the_recorded_ranks():
    sim = golden_matrix("m1")
    for direction, scores, find in (
        ("t2v", sim, metrics.text_to_video_ranks),
        ("v2t", sim.T, metrics.video_to_text_ranks),
    ):
        tied = (scores == scores.diagonal()[:, None]).sum(dim=1)  # recorded ranks a row
        recorded = torch.tensor(GOLDEN["m1"][direction]["cols"]).split(tied.tolist())
        assert tied.max() > 1
        assert find(sim).tolist() == [ranks.max().item() for ranks in recorded]


@pytest.mark.parametrize("seed", range(6))
def test_ragged_captions_and_ties_equal_a_naive_loop(seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)
    captions, clips = 23, 9
    sim = torch.randn(captions, clips, generator=generator)
    sim = (sim * 4).round() / 4  # many ties
    clip_of_caption = torch.randint(clips, (captions,), generator=generator)
    if seed % 2:
        clip_of_caption[clip_of_caption == 3] = 4  # a clip without caption is a distractor for the texts
    monkeypatch.setattr(metrics, "_CHUNK_CELLS", 50)
    result = metrics.retrieval_metrics(sim, clip_of_caption)
    expected = naive_metrics(sim, clip_of_caption)
    for direction in ("t2v", "v2t"):
        assert result[direction] == pytest.approx(expected[direction], rel=1e-12)


def test_last_caption_of_a_clip_is_not_credited_to_the_next():
    """Published codes that store the place of a clip's last caption and subtract one again make this mistake."""
    clip_of_caption = torch.tensor([0, 0, 1, 1, 1, 2])
    sim = torch.full((6, 3), 0.1)
    for caption, owner in ((1, 0), (4, 1), (5, 2)):  # the last caption of each clip, and only that, finds it
        sim[caption, owner] = 0.9
    ranks = metrics.text_to_video_ranks(sim, clip_of_caption)
    assert ranks.tolist() == [2, 0, 2, 2, 0, 0]
    assert metrics.video_to_text_ranks(sim, clip_of_caption).tolist() == [0, 0, 0]
    shifted = torch.tensor([0, 1, 1, 1, 2, 2])
    assert metrics.text_to_video_ranks(sim, shifted).tolist() != ranks.tolist()


def test_one_caption_a_clip_is_the_default():
    sim = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    assert metrics.retrieval_metrics(sim) == metrics.retrieval_metrics(sim, torch.arange(7))


def test_a_constant_matrix_ranks_everything_last():
    result = metrics.retrieval_metrics(torch.ones(60, 60))
    assert result["t2v"] == result["v2t"] == {"R1": 0, "R5": 0, "R10": 0, "R50": 0, "MedianR": 60, "MeanR": 60}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_similarity_that_is_no_number_is_refused(value):
    sim = torch.eye(4)
    sim[1, 2] = value
    with pytest.raises(InputError, match="4 x 4 similarities are not all finite"):
        metrics.retrieval_metrics(sim)


@pytest.mark.parametrize(
    ("shape", "owners"), [((3, 3), [0, 1]), ((2, 3), [0, 3]), ((2, 3), [0, -1]), ((3, 2), None), ((0, 3), [])]
)
def test_captions_that_do_not_fit_are_refused(shape, owners):
    owners = None if owners is None else torch.tensor(owners, dtype=torch.int64)
    with pytest.raises(ValueError, match="clip_of_caption"):
        metrics.retrieval_metrics(torch.zeros(shape), owners)
