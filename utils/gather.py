"""Tensors that processes gather from each other, with gradients.

Dimension letters: B items of this process, W processes.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from utils.distributed import is_main, rank, world_size


def gather_shards(shard: Tensor) -> Tensor:
    """The shards of all processes, one after another in the order of their ranks.

    Args:
        shard: (B, ...), on the process's device; B may differ from process to process and may be 0, the rest may not.

    Returns:
        (sum of B, ...), the same on every process, without gradient.
    """
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
    """The shards of all processes in the main process's memory, one after another; None in the others.

    Each shard is received in its place, so that the processes together hold the whole twice at most.

    Args:
        shard: as for `gather_shards`.
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


def all_reduce(tensor: Tensor, how: str) -> Tensor:
    """Reduce a tensor in place over all processes, by "max" or "sum", and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor, {"max": dist.ReduceOp.MAX, "sum": dist.ReduceOp.SUM}[how])
    return tensor


def gather_features(features: Tensor, exact: bool) -> Tensor:
    """The features of all processes, through which the gradient flows back.

    Every process computes the loss of the whole batch from them, and DDP then averages the gradients of the weights
    over the processes.

    Args:
        features: (B, ...), of one shape on every process.
        exact: the gradient of this process's features is summed over the losses of all processes, so that W processes
            give the weights the gradient of one with the whole batch. Otherwise it is that of the process's own loss,
            as in the released code, and the average makes it W times smaller.

    Returns:
        (W * B, ...), in the order of the ranks.
    """
    return features if world_size() == 1 else _GatherFeatures.apply(features, exact)


class _GatherFeatures(torch.autograd.Function):
    """All-gather; backwards, this process's slice of the gradient, summed over processes or its own."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, exact: bool) -> Tensor:
        ctx.exact = exact
        return torch.cat(_all_gather(features.contiguous()))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.exact:
            # all_reduce writes in place, and autograd may hand the same gradient to others.
            gradient = gradient.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()], None


def shard(whole: Tensor) -> Tensor:
    """This process's part of work divided among all, whose results `gather_features(..., exact=True)` joins.

    The gradient that reaches `whole` on every process, and after DDP's averaging the weights that did the work, is that
    of one process which did it all.

    Args:
        whole: (W * B, ...), as good as the same on every process.

    Returns:
        (B, ...), in the order of the ranks.
    """
    return whole if world_size() == 1 else _Shard.apply(whole)


class _Shard(torch.autograd.Function):
    """This process's chunk; backwards, the chunks' gradients of all processes, each of which is W times too large."""

    @staticmethod
    def forward(ctx: FunctionCtx, whole: Tensor) -> Tensor:
        return whole.chunk(world_size())[rank()].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return torch.cat(_all_gather(gradient.contiguous())) / world_size()


def _all_gather(tensor: Tensor) -> list[Tensor]:
    """The tensors of all processes, which have one shape."""
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return parts
