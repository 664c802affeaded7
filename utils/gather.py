"""Gathering tensors from all processes, with gradients.

Dimension letters: B items of this process, W processes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils.distributed import is_main, rank, world_size


def gather_shards(shard: Tensor) -> Tensor:
    """Concatenate the shards (B, ...) of all processes, without gradient; B may differ between processes and be 0."""
    shard = shard.detach().contiguous()
    if world_size() == 1:
        return shard
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=shard.device)
    sizes[rank()] = len(shard)
    dist.all_reduce(sizes)
    padded = shard.new_zeros(int(sizes.max()), *shard.shape[1:])
    padded[: len(shard)] = shard
    parts = _all_gather(padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes.tolist(), strict=True)])


def gather_to_main(shard: Tensor) -> Tensor | None:
    """Concatenate the shards (B, ...) of all processes in the main process, on the CPU; None in the others.

    Each shard is received in place: all processes together hold the whole at most twice.
    """
    shard = shard.detach().cpu().contiguous()
    lengths = gather_shards(torch.tensor([len(shard)])).tolist()
    if not is_main():
        if len(shard):
            dist.send(shard, 0)
        return None
    if len(lengths) == 1:
        return shard
    whole = shard.new_empty(sum(lengths), *shard.shape[1:])
    whole[: len(shard)] = shard
    for source, place in enumerate(whole.split(lengths)):
        if source and len(place):
            dist.recv(place, source)
    return whole


def receive_blocks(lengths: Sequence[int], shape: tuple[int, int]) -> Iterator[Tensor]:
    """Yield float32 rows that the other processes send to the main one, block by block, in the order of their ranks.

    Args:
        lengths: rows of each process.
        shape: of a block, the last one of a process may have fewer rows.
    """
    for source, length in enumerate(lengths[1:], start=1):
        for first in range(0, length, shape[0]):
            block = torch.empty(min(shape[0], length - first), shape[1])
            dist.recv(block, source)
            yield block


def all_reduce(tensor: Tensor, how: str) -> Tensor:
    """Reduce a tensor in place over all processes, by "max" or "sum", and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor, {"max": dist.ReduceOp.MAX, "sum": dist.ReduceOp.SUM}[how])
    return tensor


def gather_features(features: Tensor, exact: bool) -> Tensor:
    """Concatenate the features (B, ...) of all processes to (W * B, ...), with gradient.

    Every process computes the loss of the whole batch, and DDP then averages the gradients of the weights. If `exact`,
    the gradient of this process's features is summed over the losses of all processes, so that W processes give the
    gradient of one with the whole batch. Otherwise it is that of this process's loss, as in the released code, which
    the average makes W times smaller.
    """
    return features if world_size() == 1 else _GatherFeatures.apply(features, exact)


class _GatherFeatures(torch.autograd.Function):
    """All-gather; backward: this process's slice of the gradient, or of its sum over processes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, exact: bool) -> Tensor:
        ctx.exact = exact
        return torch.cat(_all_gather(features.contiguous()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.exact:
            # all_reduce writes in place, and autograd may pass the same gradient to others.
            gradient = gradient.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()], None


def shard(whole: Tensor) -> Tensor:
    """This process's shard (B, ...) of `whole` (W * B, ...), which is equal on all processes up to rounding.

    After `gather_features(..., exact=True)` of the results, the gradient of `whole`, and of the weights after DDP's
    average, is that of one process that computes everything.
    """
    return whole if world_size() == 1 else _Shard.apply(whole)


class _Shard(torch.autograd.Function):
    """This process's chunk; backward: gathered gradients of the chunks, divided by W."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        return whole.chunk(world_size())[rank()].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.cat(_all_gather(gradient.contiguous())) / world_size()


def _all_gather(tensor: Tensor) -> list[Tensor]:
    """Tensors of one shape from all processes."""
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return parts
