"""Roofline estimate of kernel times: each takes the maximum of its arithmetic, its memory traffic and its launch.

Source: the roofline model, Williams et al., 2009, https://doi.org/10.1145/1498765.1498785.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
# Fused attention has the same arithmetic on any device; PyTorch counts that of GPUs alone.
_FLOPS = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}
_MOVES_NOTHING = {torch.ops.prim.device, _ATEN._unsafe_view, _ATEN.detach, _ATEN.empty_like}


@dataclass(frozen=True)
class Device:
    """Published figures of a device.

    Attributes:
        half, single: FLOP/s of dense matrix products in bfloat16 and in float32.
        bandwidth: bytes/s of its memory.
        memory: bytes.
        link: bytes/s to the other devices of the machine, in one direction.
    """

    half: float
    single: float
    bandwidth: float
    memory: float
    link: float


@dataclass(frozen=True)
class Shares:
    """Achievable shares of a device's figures.

    Attributes:
        arithmetic: share of the FLOP/s.
        bandwidth: share of the bytes/s, to the memory and to other devices.
        start: minimum seconds from the start of one kernel to that of the next.
        host: seconds that Python and PyTorch take to launch one kernel.
    """

    arithmetic: float = 0.45
    bandwidth: float = 0.7
    start: float = 6e-6
    host: float = 12e-6


class Roofline(TorchDispatchMode):
    """A context manager that counts kernels; under `FakeTensorMode` nothing is computed.

    Attributes:
        flops: of matrix products and convolutions.
        bytes: read and written, each kernel for itself.
        kernels: how many.
        seconds: of all kernels by their bottleneck: "arithmetic", "memory bandwidth" or "starting kernels".
    """

    def __init__(self, device: Device, shares: Shares):
        """Args: device, shares: of the device."""
        super().__init__()
        self.device, self.shares = device, shares
        self.flops = self.bytes = self.kernels = 0
        self.seconds: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run and count one operation."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operation = func._overloadpacket
        if not (func.is_view or operation in _MOVES_NOTHING):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            count = _FLOPS.get(operation, lambda *_, **__: 0)
            self._add(count(*args, **kwargs, out_val=result), tensors)
        return result

    def _add(self, flops: int, tensors: list[Tensor]) -> None:
        """Count one kernel with the tensors it reads and writes."""
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        half = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in tensors)
        needs = {
            "arithmetic": flops / self.shares.arithmetic / (self.device.half if half else self.device.single),
            "memory bandwidth": moved / self.shares.bandwidth / self.device.bandwidth,
            "starting kernels": self.shares.start,
        }
        longest = max(needs, key=needs.get)
        self.seconds[longest] += needs[longest]
        self.flops, self.bytes, self.kernels = self.flops + flops, self.bytes + moved, self.kernels + 1


@contextmanager
def kept_bytes(weights: list[Tensor]) -> Iterator[list[int]]:
    """Yield a list that receives the bytes of each storage kept for the backward pass, the weights excluded."""
    seen, sizes = {weight.untyped_storage()._cdata for weight in weights}, []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            sizes.append(storage.nbytes())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes
