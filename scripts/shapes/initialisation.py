"""Initialisation that lets a small image tower learn positions from few pictures.

Letters: N patches, W width.
"""

import math

import torch
from torch import Tensor

from models.clip import VisionTransformer

SCALE = 0.5  # of the sines; a patch's own vector has about this size


@torch.no_grad()
def set_positions(tower: VisionTransformer) -> None:
    """Set a tower's position embeddings, in place, to sines and cosines of row and column.

    With random ones of CLIP's size the content of a patch dominates, and positions are learnt very late.
    """
    patches, width = tower.positional_embedding[1:].shape
    tower.positional_embedding[1:] = SCALE * _waves(math.isqrt(patches), width)


def _waves(side: int, width: int) -> Tensor:
    """Sines and cosines of the row and column of each cell of a square grid: (N, W), rows first."""
    frequencies = math.pi * 2 ** torch.linspace(-1, math.log2(side), width // 4)
    angles = (torch.arange(side) + 0.5)[:, None] / side * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, W / 2)
    rows, columns = waves[:, None].expand(side, side, -1), waves.expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
