"""Tokens in 16, 8 or 4 bits per number.

S segments, N tokens of each, D width. With less than 16 bits residuals are stored, as in late-interaction engines:
tokens without their part along the segment's vector, quantised uniformly up to the largest number.
"""

import numpy as np
import torch
from torch import Tensor

BITS = (16, 8, 4)


def compress(tokens: Tensor, vectors: Tensor, bits: int) -> dict[str, np.ndarray]:
    """Compress tokens (S, N, D), given vectors (S, D) of length 1, to columns of (S, ...) numbers."""
    tokens, vectors = tokens.float().cpu(), vectors.half().float().cpu()
    if bits == 16:
        return {"tokens": tokens.half().flatten(1).numpy()}
    along = torch.einsum("snd,sd->sn", tokens, vectors).half()
    residual = tokens - along.float().unsqueeze(2) * vectors.unsqueeze(1)
    steps = 2 ** (bits - 1) - 1
    step = (residual.abs().amax(dim=2) / steps).half().clamp(min=2**-24)
    codes = (residual / step.float().unsqueeze(2)).round().clamp(-steps, steps).add(steps + 1).byte().flatten(1)
    if bits == 4:
        codes = codes[:, 0::2] * 16 + codes[:, 1::2]
    return {"tokens": codes.numpy(), "scales": torch.stack([along, step], dim=2).flatten(1).numpy()}


def restore(columns: dict[str, np.ndarray], vectors: Tensor, bits: int) -> Tensor:
    """Inverse of `compress`: tokens (S, N, D), float32, from columns and vectors (S, D)."""
    codes, vectors = torch.from_numpy(columns["tokens"]), vectors.half().float()
    if bits == 16:
        return codes.float().unflatten(1, (-1, vectors.shape[1]))
    if bits == 4:
        codes = torch.stack([codes // 16, codes % 16], dim=2).flatten(1)
    along, step = torch.from_numpy(columns["scales"]).float().unflatten(1, (-1, 2)).unsqueeze(3).unbind(2)
    residual = (codes.float() - 2 ** (bits - 1)).unflatten(1, (-1, vectors.shape[1])) * step
    return residual + along * vectors.unsqueeze(1)
