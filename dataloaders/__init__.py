"""Data sets by name, and loaders over them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from dataloaders.activity import read_activity
from dataloaders.base import Clip, ClipDataset, PairDataset, Split, TextDataset, collate
from dataloaders.csv_pairs import read_csv_pairs
from dataloaders.didemo import read_didemo
from dataloaders.lsmdc import read_lsmdc
from dataloaders.msrvtt import read_msrvtt
from dataloaders.msvd import read_msvd
from dataloaders.sampling import DrawnDataset, TrainingSampler
from dataloaders.vatex import read_vatex
from utils.errors import InputError
from utils.preemption import heed_parent_only

__all__ = [
    "DATASETS",
    "Clip",
    "ClipDataset",
    "DatasetSpec",
    "PairDataset",
    "Split",
    "TextDataset",
    "build_dataloader",
    "build_split",
    "collate",
    "find_dataset",
]


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as it was published with the method.

    Attributes:
        read: folder of annotations and name of the split ("train", "val", "test") -> split; some take options by name.
        frame_rule: how frames are chosen, one of `utils.video.positions.FRAME_RULES`.
        augments: whether training frames go through RandAugment.
        bank_split: whose pairs are the banks of a method that always evaluates after QB-Norm (DiCoSA).
        whole_seconds: whether the windows of clips are cut to whole seconds, as published.
    """

    read: Callable[..., Split]
    frame_rule: str
    augments: bool
    bank_split: str = "train"
    whole_seconds: bool = True


DATASETS = {
    "msrvtt": DatasetSpec(read_msrvtt, frame_rule="decord", augments=True),
    "msvd": DatasetSpec(read_msvd, frame_rule="decord", augments=False),
    "activity": DatasetSpec(read_activity, frame_rule="cv2", augments=False),
    "didemo": DatasetSpec(read_didemo, frame_rule="cv2", augments=False),
    "lsmdc": DatasetSpec(read_lsmdc, frame_rule="decord", augments=False, bank_split="val"),
    "vatex": DatasetSpec(read_vatex, frame_rule="decord", augments=False),
    "csv": DatasetSpec(read_csv_pairs, frame_rule="decord", augments=False, whole_seconds=False),
}


def find_dataset(datatype: str) -> DatasetSpec:
    """Look a data set up.

    Args:
        datatype: a key of `DATASETS`.

    Returns:
        Its entry.

    Raises:
        InputError: there is none.
    """
    if datatype not in DATASETS:
        raise InputError(f"--datatype {datatype}: unknown; choose one of {', '.join(DATASETS)}")
    return DATASETS[datatype]


def build_split(datatype: str, anno_path: str | Path, split: str, **options: str) -> Split:
    """Read the annotations of one split.

    Args:
        datatype: a key of `DATASETS`.
        anno_path: folder of annotations.
        split: "train", "val" or "test"; "val" is the test split where the data set has no validation videos.
        **options: of the data set's reader, such as `msrvtt_split`.

    Returns:
        The split.

    Raises:
        InputError: unknown data set, missing folder, missing or malformed file.
        ValueError: unknown split.
    """
    spec = find_dataset(datatype)
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be train, val or test, got {split!r}")
    if not Path(anno_path).is_dir():
        raise InputError(f"{anno_path}: no such folder of annotations; check --anno_path")
    return spec.read(Path(anno_path), split, **options)


def build_dataloader(
    dataset: Dataset,
    *,
    batch_size: int,
    max_frames: int,
    training: bool,
    workers: int = 4,
    seed: int = 42,
    rank: int = 0,
    world_size: int = 1,
    device: str | torch.device = "cpu",
    collate: Callable[..., dict[str, Tensor]] = collate,
) -> DataLoader:
    """Load batches in worker processes.

    In training every process draws its part of a new permutation each epoch (call `loader.sampler.set_epoch(epoch)`,
    which can also leave out items at its beginning), and what does not fill a global batch is left out. In evaluation
    process r of w gets items len * r // w up to len * (r + 1) // w in order, so that the parts in the order of ranks
    are the data set, without duplicates.

    What is drawn at random for a training batch depends on `seed`, the epoch and the batch's place in it alone.

    Args:
        dataset: a PairDataset, TextDataset or ClipDataset.
        batch_size: items in a batch over all processes.
        max_frames: N_v, columns of the video mask.
        training: shuffled, or in order.
        workers: processes, each with one thread, but no more than there are batches; 0 for none.
        seed: of the order and of the workers' generators.
        rank: this process.
        world_size: number of processes.
        device: where the batches go; their memory is pinned for CUDA.
        collate: items of a batch and `max_frames` to the batch.

    Returns:
        The loader.

    Raises:
        InputError: the number of processes does not divide the batch, or training data that do not fill a batch.
    """
    flag = "--batch_size" if training else "--batch_size_val"
    if batch_size < 1 or batch_size % world_size:
        remedy = f"choose a multiple of {world_size} for {flag}"
        raise InputError(f"batch size {batch_size}: cannot be divided among {world_size} processes; {remedy}")
    sampler = None
    if training:
        if len(dataset) < batch_size:
            there = f"there are only {len(dataset)} training pairs"
            raise InputError(f"batch size {batch_size}: {there}; give a smaller {flag}")
        sampler = TrainingSampler(dataset, world_size, rank, shuffle=True, seed=seed, drop_last=True)
        dataset = DrawnDataset(dataset)
    else:
        bounds = [len(dataset) * part // world_size for part in (rank, rank + 1)]
        dataset = Subset(dataset, range(*bounds))
    batch_size //= world_size
    workers = min(workers, -(-len(sampler or dataset) // batch_size))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=training,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.device(device).type == "cuda",
        collate_fn=partial(collate, max_frames=max_frames),
        worker_init_fn=heed_parent_only,
        generator=torch.Generator().manual_seed(seed + rank),
    )
