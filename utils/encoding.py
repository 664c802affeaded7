"""The encoding loop of all entry scripts.

Dimension letters: B items of a batch.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from utils.devices import autocast, to_device
from utils.distributed import gather_shards
from utils.logger import progress


@torch.inference_mode()
def encode(
    loader: DataLoader,
    encode_batch: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
    *,
    device: torch.device,
    precision: str,
    description: str,
    logger: logging.Logger,
) -> tuple[Tensor, ...]:
    """Encode a whole loader.

    Args:
        loader: batches of named tensors, over a `Subset`: this process's share, which may be empty.
        encode_batch: called with a batch on `device`, returns tensors (B, ...).
        device: where it runs.
        precision: fp32, bf16 or fp16.
        description: what is encoded, for the progress shown.
        logger: where the progress goes.

    Returns:
        What `encode_batch` returns, concatenated over batches.
    """

    def run(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        with autocast(device, precision):
            return encode_batch(to_device(batch, device))

    parts = [run(batch) for batch in progress(loader, description, logger)]
    if not parts:  # an item of another process's share tells the shapes
        example = run(loader.collate_fn([loader.dataset.dataset[0]]))
        parts = [tuple(tensor[:0] for tensor in example)]
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def encode_clips(
    model: nn.Module, loader: DataLoader, *, device: torch.device, precision: str, logger: logging.Logger
) -> tuple[Tensor, Tensor]:
    """Frame tokens (B, N_v, D) and mask (B, N_v) of all clips of all processes; arguments as for `encode`."""
    shard = encode(
        loader,
        lambda batch: (model.frame_tokens(batch["frames"], batch["video_mask"]), batch["video_mask"]),
        device=device,
        precision=precision,
        description="clips",
        logger=logger,
    )
    return tuple(gather_shards(tensor) for tensor in shard)
