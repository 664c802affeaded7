"""Loaders over data sets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from dataloaders.base import Items, collate
from dataloaders.sampling import DrawnDataset, TrainingSampler
from utils.errors import InputError
from utils.preemption import ignore_foreign_signals


@dataclass(frozen=True)
class LoaderOptions:
    """How batches are loaded.

    Attributes:
        batch_size: items in a batch over all processes.
        max_frames: N_v, columns of the video mask.
        workers: loading processes, each with one thread, at most one for each batch; 0 for none.
        device: where the batches go; their memory is pinned for CUDA.
    """

    batch_size: int
    max_frames: int
    training: bool
    workers: int = 4
    seed: int = 42
    rank: int = 0
    world_size: int = 1
    device: str | torch.device = "cpu"

    def check(self, items: int) -> None:
        """Refuse a batch size that the processes cannot share equally, or that exceeds the training items."""
        size, flag = self.batch_size, "--batch_size" if self.training else "--batch_size_val"
        if size < 1 or size % self.world_size:
            remedy = f"choose a multiple of {self.world_size} for {flag}"
            raise InputError(f"batch size {size}: cannot be divided among {self.world_size} processes; {remedy}")
        if self.training and items < size:
            raise InputError(f"batch size {size}: there are only {items} training pairs; give a smaller {flag}")


def build_dataloader(
    dataset: Items, options: LoaderOptions, collate: Callable[..., dict[str, Tensor]] = collate
) -> DataLoader:
    """Load batches in worker processes.

    In training every process draws its shard of a new permutation each epoch (call `loader.sampler.set_epoch(epoch)`,
    which can also skip items at the beginning); the last incomplete batch is dropped. Random draws of a batch depend
    only on the seed, the epoch and the batch's number in it. In evaluation rank r of w gets the items from len * r // w
    to len * (r + 1) // w. `collate` makes a batch of items and `max_frames`.
    """
    options.check(len(dataset))
    rank, world_size, sampler = options.rank, options.world_size, None
    if options.training:
        sampler = TrainingSampler(dataset, world_size, rank, shuffle=True, seed=options.seed, drop_last=True)
        items = DrawnDataset(dataset)
    else:
        items = Subset(dataset, range(*(len(dataset) * part // world_size for part in (rank, rank + 1))))
    batch_size = options.batch_size // world_size
    workers = min(options.workers, -(-len(sampler or items) // batch_size))
    return DataLoader(
        items,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=options.training,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.device(options.device).type == "cuda",
        collate_fn=partial(collate, max_frames=options.max_frames),
        worker_init_fn=ignore_foreign_signals,
        generator=torch.Generator().manual_seed(options.seed + rank),
    )
