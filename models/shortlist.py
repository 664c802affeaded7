"""The nearest videos by one vector each, found before the interaction is computed for the few that are near.

Dimension letters: A texts, B videos, N tokens, D width, K candidates.
"""

import torch  # before faiss, which brings its own copies of system libraries

# isort: split
import faiss
import torch.nn.functional as F
from torch import Tensor


def pooled(tokens: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """One vector for each token set, so that inner products of two are the average cosines of their tokens, scaled.

    Args:
        tokens: (B, N, D).
        mask: (B, N), 1 for valid tokens.
        weight: (B, N), what each token counts; None counts all valid ones alike.

    Returns:
        (B, D), of length 1, float32.
    """
    weight = mask.float() if weight is None else weight * mask
    return F.normalize(torch.einsum("bn,bnd->bd", weight, F.normalize(tokens.float(), dim=-1)), dim=-1)


class Shortlist:
    """Nearest neighbours by inner product, exact, on the CPU.

    Args:
        vectors: (B, D), as `pooled` gives them.
    """

    def __init__(self, vectors: Tensor):
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(_rows(vectors))

    def __len__(self) -> int:
        return self._index.ntotal

    def search(self, queries: Tensor, count: int) -> Tensor:
        """The nearest vectors of each query.

        Args:
            queries: (A, D).
            count: K, how many; more than there are gives all.

        Returns:
            int64 (A, K), positions of the vectors, the nearest first, on the CPU.
        """
        return torch.from_numpy(self._index.search(_rows(queries), min(count, len(self)))[1])


def _rows(vectors: Tensor):
    """Vectors as the array that faiss takes."""
    return vectors.detach().float().cpu().contiguous().numpy()
