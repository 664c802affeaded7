"""Ranks from the shards of several processes, and the lines of predictions.jsonl."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import run_together
from utils import distributed
from utils.engine.ranking import Ranking, find_best, rank_split, write_predictions, write_similarity
from utils.errors import InputError
from utils.gather import gather_to_main
from utils.metrics import rank_statistics, retrieval_metrics, sharded_ranks, text_to_video_ranks, video_to_text_ranks


def cases():
    """Similarities full of ties, with the clip of each caption: one caption a clip, several mixed, clips without."""
    draw = torch.Generator().manual_seed(0)
    for captions, clips in ((9, 9), (23, 7), (23, 11), (5, 3), (3, 5)):
        sim = torch.randint(0, 6, (captions, clips), generator=draw).float()
        owner = torch.arange(captions) if captions == clips else torch.randint(0, clips, (captions,), generator=draw)
        yield sim, owner
        yield torch.randn(captions, clips, generator=draw), owner.sort().values


def shards_of(captions, world):
    """Ways to divide captions among processes, among them empty parts."""
    yield [captions * (part + 1) // world - captions * part // world for part in range(world)]
    yield [captions] + [0] * (world - 1)
    yield [0] * (world - 1) + [captions]


def check(folder):
    distributed.start("cpu")
    rank, world = distributed.rank(), distributed.world_size()
    for sim, owner in cases():
        expected = {"t2v": text_to_video_ranks(sim, owner), "v2t": video_to_text_ranks(sim, owner)}
        other = sim.flip(1)
        for sizes in shards_of(len(sim), world):
            own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
            found = sharded_ranks(sim[own], sim[own], owner)
            assert all(torch.equal(found[side], ranks) for side, ranks in expected.items()), (sizes, found, expected)
            assert torch.equal(sharded_ranks(sim[own], other[own], owner)["v2t"], video_to_text_ranks(other, owner))
            whole = gather_to_main(sim[own])
            assert whole is None if rank else torch.equal(whole, sim)
            ranking = rank_split(sim[own], (sim[own], other[own]), owner, {"even": list(range(0, len(sim), 2))})
            best = find_best(ranking, owner, lambda clips, sim=other[own]: [("level", sim.gather(1, clips))])
            write_similarity(folder / "similarity.npy", sim[own])
            assert rank or torch.equal(torch.from_numpy(np.load(folder / "similarity.npy")), sim)
            assert torch.equal(best["clips"][:, 0], owner)
            assert torch.equal(best["level"], other.gather(1, best["clips"]))
    broken = torch.full((2, 4), torch.nan if rank == world - 1 else 1.0)
    with pytest.raises(InputError, match="not all finite"):
        sharded_ranks(broken, broken, torch.arange(2 * world) % 4)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_shards_have_the_ranks_of_the_whole(world, tmp_path):
    run_together(tmp_path / "log.txt", world, check, tmp_path)


CAPTIONS, CLIPS = 59_800, 2_990


class Peak(threading.Thread):
    """A context manager that records the growth of this process's anonymous memory."""

    @staticmethod
    def now() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.highest = max(self.highest, self.now())

    def __enter__(self) -> "Peak":
        self.before = self.highest = self.now()
        self.done = threading.Event()
        self.start()
        return self

    def __exit__(self, *error) -> None:
        self.done.set()
        self.join()
        self.growth = max(self.highest, self.now()) - self.before


def measure(folder):
    """Rank a matrix by shards, save it, and write how much more memory this process took than before its shard."""
    distributed.start("cpu")
    rank, world = distributed.rank(), distributed.world_size()
    owner = torch.arange(CAPTIONS) * CLIPS // CAPTIONS
    with Peak() as peak:
        sim = torch.rand(len(owner) // world + (rank < len(owner) % world), CLIPS)
        found = rank_split(sim, (sim, sim), owner, {})
        find_best(found, owner, lambda clips: [])
        write_similarity(folder / "similarity.npy", sim)
    (folder / f"{rank}.growth").write_text(str(peak.growth))


@pytest.mark.slow
def test_all_processes_together_hold_little_more_than_the_matrix(tmp_path):
    """MSR-VTT's full split, 715 MB; on top come temporaries, also where it is saved."""
    run_together(tmp_path / "log.txt", 4, measure, tmp_path)
    taken = sum(int(file.read_text()) for file in tmp_path.glob("*.growth"))
    assert taken < 1.6 * 4 * CAPTIONS * CLIPS, f"{taken / (4 * CAPTIONS * CLIPS):.2f} times the matrix"


def test_predictions(tmp_path):
    sim = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.1, 0.3], [0.7, 0.6, 0.5]])
    owner = torch.tensor([1, 0, 0])
    ranking = Ranking(retrieval_metrics(sim, owner), sharded_ranks(sim, sim, owner), sim, sim)
    found = find_best(
        ranking, owner, lambda clips: [("entity", 2 * sim.gather(1, clips)), ("action", -sim.gather(1, clips))]
    )
    write_predictions(tmp_path / "predictions.jsonl", ["one", "two", "drei"], ["a", "b", "c"], found, ranking.ranks)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == ["one", "two", "drei"]
    assert [line["true"]["video"] for line in lines] == ["b", "a", "a"]
    assert [line["rank"] for line in lines] == [1, 2, 1] and [line["video_rank"] for line in lines] == [1, 1, 1]
    assert [clip["video"] for clip in lines[1]["found"]] == ["c", "a", "b"]
    assert lines[1]["found"][0] == {"video": "c", "score": 0.3, "levels": {"action": -0.3, "entity": 0.6}}
    ranks = torch.tensor([line["rank"] - 1 for line in lines])
    assert rank_statistics(ranks) == ranking.metrics["t2v"]


def test_plain_ranks_are_given_beside_those_of_other_scores():
    sim, owner = torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.arange(2)
    assert "plain" not in rank_split(sim, (sim, sim), owner, {}).metrics
    metrics = rank_split(sim, (1 - sim, 1 - sim), owner, {}).metrics
    assert metrics["plain"]["t2v"]["R1"] == 0 and metrics["t2v"]["R1"] == 100
