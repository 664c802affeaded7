"""Batches and their order: sizes, shards of processes, and positions that a resumed epoch skips."""

import pytest
import torch

from dataloaders.loading import LoaderOptions, build_dataloader
from dataloaders.sampling import DrawnDataset, TrainingSampler


class Numbers:
    """Items that are their indices."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def numbers(count: int, **options) -> list[list[int]]:
    """The items of each batch."""
    options = LoaderOptions(max_frames=1, workers=0, **options)
    return [*build_dataloader(Numbers(count), options, lambda items, max_frames: items)]


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (9, [4, 4]), (11, [4, 4])])
def test_training_drops_the_last_incomplete_batch(count, sizes):
    batches = numbers(count, batch_size=4, training=True)
    assert [*map(len, batches)] == sizes and len({*sum(batches, [])}) == sum(sizes)


@pytest.mark.parametrize("count", [8, 9, 11])
def test_evaluation_takes_every_item_once_and_in_order(count):
    shards = [numbers(count, batch_size=6, training=False, rank=rank, world_size=2) for rank in (0, 1)]
    assert sum(sum(shards, []), []) == [*range(count)]
    assert {len(batch) for shard in shards for batch in shard[:-1]} <= {3}


@pytest.mark.parametrize("count", [8, 9, 11])
def test_no_item_is_in_two_shards_of_an_epoch(count):
    shards = [sum(numbers(count, batch_size=4, training=True, rank=rank, world_size=2), []) for rank in (0, 1)]
    assert len({*shards[0], *shards[1]}) == len(shards[0]) + len(shards[1]) == 8


def test_a_data_set_that_can_gives_a_batch_at_once():
    class Batches(Numbers):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [100 + index for index in indices]

    options = LoaderOptions(batch_size=4, max_frames=1, training=True, workers=0)
    (batch,) = build_dataloader(Batches(4), options, lambda items, max_frames: items)
    assert sorted(batch) == [100, 101, 102, 103]


def test_skipped_items_are_the_first_of_the_epoch():
    sampler = TrainingSampler(DrawnDataset(Numbers(10)), 1, 0, seed=3)
    sampler.set_epoch(2)
    whole = [*sampler]
    sampler.set_epoch(2, skipped=4)
    assert [*sampler] == whole[4:]
    assert [draw.index for draw in whole[4:7]] == sampler.indices(slice(4, 7))


def test_other_seeds_and_epochs_are_other_orders():
    first, again, other = (numbers(64, batch_size=64, training=True, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    sampler = TrainingSampler(DrawnDataset(Numbers(64)), 1, 0, seed=1)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append(sampler.indices(slice(None)))
    assert sum(first, []) == orders[0] != orders[1] and torch.equal(*(torch.tensor(o).sort().values for o in orders))
