"""The nearest videos by one vector each, found before the interaction is computed for the few that are near.

Dimension letters: A texts, B videos, N tokens, N_t words, N_v frames, D width, K candidates.
"""

from functools import partial

import torch  # before faiss, which brings its own copies of system libraries

# isort: split
import faiss
import torch.nn.functional as F
from torch import Tensor

from models.hbi import HBI, SIMILARITY_MEMORY, full_precision
from models.interaction import TokenWeight, token_similarity, unit, weighted_similarity
from models.level import Level, TokenSet

WEIGHED = 1024
"""Token sets that are weighed at a time: it takes several times the memory of their tokens."""


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


@torch.no_grad()
def text_vectors(model: HBI, tokens: Tensor, mask: Tensor) -> Tensor:
    """Vectors (A, D) of texts, tokens (A, N, D) and mask (A, N), pooled by the weights of the entity level.

    On the 200 test videos of the built-in corpus the video of the largest similarity is among the nearest 10 for 99 %
    of the captions, where all tokens count alike for 65 %.
    """
    entity = model.levels[0]
    return pooled(tokens, mask, _weights(entity, TokenSet.original(tokens, mask), entity.text_weight))


@torch.no_grad()
def video_vectors(model: HBI, tokens: Tensor, mask: Tensor) -> Tensor:
    """Vectors (B, D) of videos, tokens (B, N, D) and mask (B, N), likewise."""
    entity = model.levels[0]
    return pooled(tokens, mask, _weights(entity, TokenSet.original(tokens, mask), entity.video_weight))


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


@torch.no_grad()
@full_precision
def candidate_similarity(
    model: HBI,
    text: tuple[Tensor, Tensor],
    video: tuple[Tensor, Tensor],
    candidates: Tensor,
    *,
    memory: int = SIMILARITY_MEMORY,
) -> Tensor:
    """What `HBI.similarity` gives for some videos of each text; all tokens are merged and weighed once.

    Args:
        model: whose levels compare.
        text: tokens (A, N_t, D) and mask (A, N_t).
        video: tokens (B, N_v, D) and mask (B, N_v).
        candidates: int64 (A, K), which videos each text is compared with.
        memory: bytes that the candidates' tokens may take at a time, at least one text's.

    Returns:
        (A, K), float32.
    """
    sim = torch.zeros(candidates.shape, device=text[0].device)
    if not sim.numel():
        return sim
    for rate, level, words, frames in model.rated_levels(text, video):
        word_weight = _weights(level, words, level.text_weight)
        frame_weight = _weights(level, frames, level.video_weight)
        compare = partial(_compare, frames=frames, frame_weight=frame_weight)
        texts = max(1, memory // (4 * candidates.shape[1] * frames.tokens[0].numel()))
        sim += rate * torch.vmap(compare, chunk_size=texts)(unit(words.tokens, words.mask), word_weight, candidates)
    return sim


@torch.no_grad()
def two_stage_similarity(
    model: HBI, text: tuple[Tensor, Tensor], video: tuple[Tensor, Tensor], count: int, **options
) -> Tensor:
    """Similarities whose order is that of two stages: a shortlist by pooled vectors, ranked by the interaction.

    Args:
        model: whose levels compare.
        text: tokens (A, N_t, D) and mask (A, N_t).
        video: tokens (B, N_v, D) and mask (B, N_v).
        count: K, videos of each text's shortlist; more than there are gives all.
        **options: of `candidate_similarity`.

    Returns:
        (A, B), float32: `HBI.similarity` of the videos in the shortlist; the others' are smaller than any of these and
        follow in the order of their vectors.
    """
    texts, videos = text_vectors(model, *text), video_vectors(model, *video)
    candidates = Shortlist(videos).search(texts, count).to(texts.device)
    behind = 2 + sum(model.rates)  # similarities lie within sum(rates) of 0, inner products within 1
    return (texts @ videos.T - behind).scatter_(
        1, candidates, candidate_similarity(model, text, video, candidates, **options)
    )


def _weights(level: Level, tokens: TokenSet, head: TokenWeight | None) -> Tensor:
    """Weights (B, N) of a token set, as `Level.weigh` gives them, in little memory."""
    count, longest = tokens.tokens.shape[:2]
    places = torch.arange(count, device=tokens.tokens.device).split(WEIGHED)
    return torch.cat([level.weigh(tokens.part(index, longest), head)[1] for index in places])


def _compare(words: Tensor, word_weight: Tensor, near: Tensor, *, frames: TokenSet, frame_weight: Tensor) -> Tensor:
    """Similarity (K,) of one text, unit tokens (N_t, D) and weights (N_t), with the videos `near` (K)."""
    frame_unit = unit(frames.tokens[near], None if frames.mask is None else frames.mask[near])  # (K, N_v, D)
    token_sim = token_similarity(words.unsqueeze(0), frame_unit)  # (1, K, N_t, N_v)
    return weighted_similarity(token_sim, word_weight.unsqueeze(0), frame_weight[near]).squeeze(0)


def _rows(vectors: Tensor):
    """Vectors as the array that faiss takes."""
    return vectors.detach().float().cpu().contiguous().numpy()
