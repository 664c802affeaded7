"""A loss that predicts the things of a picture from its embedding."""

import torch.nn.functional as F
from torch import Tensor, nn

from scripts.shapes.pictures import COLOUR, NOTHING, PHRASES, SHAPE

VALUES = [len(phrases) for phrases in PHRASES]  # of each attribute
NAMED_BY = ((COLOUR, 0), (SHAPE, VALUES[COLOUR]))  # attribute that names a thing, and its first row of the table


class Reader(nn.Module):
    """Predicts attributes and place of the thing of a given colour, or of a given shape, from an embedding.

    Sentences give little information about a picture; this loss supervises all attributes at once, so that a small
    tower learns in minutes which of them belong together.
    """

    def __init__(self, width: int):
        """Args: width: D, of the embeddings."""
        super().__init__()
        self.table = nn.Linear(width, (VALUES[COLOUR] + VALUES[SHAPE]) * sum(VALUES))

    def forward(self, embeddings: Tensor, facts: Tensor) -> Tensor:
        """Mean cross-entropy of all attributes of all things, each by its colour and by its shape.

        Args:
            embeddings: (B, D).
            facts: int64 (B, THINGS, 5), see `scripts.shapes.pictures`.
        """
        tables = self.table(embeddings).view(len(embeddings), -1, sum(VALUES))
        picture, which = (facts[..., 0] != NOTHING).nonzero(as_tuple=True)
        things = facts[picture, which]  # (all things of all pictures, 5)
        losses = [
            F.cross_entropy(read, things[:, attribute])
            for name, row in NAMED_BY
            for attribute, read in enumerate(tables[picture, row + things[:, name]].split(VALUES, dim=-1))
            if attribute != name
        ]
        return sum(losses) / len(losses)
