"""Batches and arithmetic on the device of a process."""

import torch
from torch import Tensor

from utils.errors import InputError

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the forward pass; tf32 has 10 bits of mantissa inside matrix products and convolutions on a GPU."""


def set_precision(precision: str, device: torch.device) -> str:
    """Choose the arithmetic of float32 products and convolutions, and return a line for the log.

    By default PyTorch uses TF32 in convolutions; in the merge it changes clusters, and so similarities in the second
    decimal. `precision` is a key of `PRECISIONS`.

    Raises:
        InputError: the device does not support it.
    """
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError("--precision bf16: this GPU has no bfloat16; give fp16 or fp32")
    tf32 = precision == "tf32"
    # These switches rather than `fp32_precision`, with which torch.export fails.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    return f"precision {precision}; float32 products and convolutions on a GPU: {'tf32' if tf32 else 'ieee'}"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a forward pass runs in `precision`, a key of `PRECISIONS`."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to `device`, asynchronously where its memory is pinned."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
