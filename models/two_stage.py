"""Similarities in two stages: a shortlist by vectors, and the method's own of what is on it.

A texts of this process, B videos, K candidates of a text, R and C some of the texts and videos.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.encoder import TokensLike
from models.method import RetrievalMethod
from models.shortlist import Gallery, vectors
from utils.gather import gather_shards


class TwoStageSimilarity:
    """Similarity (A, B) of texts and videos, whose order is that of two stages; it is computed where it is read.

    All processes make it together, each with its texts and all videos. The `count` nearest videos of a text have the
    model's similarity; the others' are smaller than any of these on any process, and follow in the order of their
    vectors. `options` are those of `Gallery.similarity`.
    """

    @torch.no_grad()
    def __init__(self, model: RetrievalMethod, text: TokensLike, video: TokensLike, count: int, **options: Any):
        self.gallery = Gallery(model, *video)
        self._texts, self._videos = vectors(model, *text, "text"), self.gallery.shortlist.vectors
        self._candidates = self.gallery.shortlist.search(self._texts, count)
        self._near = self.gallery.similarity(text, self._candidates, **options)
        lowest = torch.cat([self._near.flatten(), self._near.new_full((1,), torch.inf)])
        lowest = gather_shards(lowest.nan_to_num(nan=torch.inf).amin().view(1)).amin()
        self._behind = lowest - 2  # inner products lie within 1 of 0
        self.shape, self.device = (len(self._texts), len(self._videos)), self._texts.device

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, part: Any) -> Float[Tensor, "R C"]:
        """Similarities of some rows, or as `[rows, columns]` also of some columns, each named once."""
        rows, columns = part if isinstance(part, tuple) else (part, slice(None))
        sim = self._texts[rows] @ self._videos[columns].T
        sim += self._behind
        place = torch.full((len(self._videos),), -1, device=self.device)
        place[columns] = torch.arange(sim.shape[1], device=self.device)
        place = place[self._candidates[rows]]  # (R, K), -1 where a candidate is in none of the columns
        row, candidate = (place >= 0).nonzero(as_tuple=True)
        sim[row, place[row, candidate]] = self._near[rows][row, candidate]
        return sim
