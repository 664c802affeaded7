"""The order of the training items, and the random draws of each batch."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from torch.utils.data import Dataset, DistributedSampler

from utils.randomness import draws_of


class Draw(NamedTuple):
    """An item's index, and the key of its random draws."""

    index: int
    key: tuple[int, int, int]


class TrainingSampler(DistributedSampler):
    """Each process's shard of a new permutation each epoch, from any position on.

    The random draws of a batch depend neither on the loading process nor on earlier batches.
    """

    skipped = 0

    def set_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Choose the permutation, and how many of this process's first items are skipped."""
        super().set_epoch(epoch)
        self.skipped = skipped

    def __iter__(self) -> Iterator[Draw]:
        items = (
            Draw(index, (self.seed, self.epoch, place * self.num_replicas + self.rank))
            for place, index in enumerate(super().__iter__())
        )
        return islice(items, self.skipped, None)

    def indices(self, places: slice) -> list[int]:
        """The items at these places of this process's shard of the epoch."""
        return list(super().__iter__())[places]


class DrawnDataset(Dataset):
    """A data set for a `TrainingSampler`: random draws of a batch are seeded by the key of its first item."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """The name of an item in messages."""
        return self.dataset.name(index)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Any]:
        """The items of a batch."""
        indices = [draw.index for draw in draws]
        with draws_of(*draws[0].key):
            fetch = getattr(self.dataset, "__getitems__", None)
            return fetch(indices) if fetch else [self.dataset[index] for index in indices]
