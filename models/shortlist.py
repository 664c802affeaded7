"""Two-stage retrieval: a shortlist by one vector for each text and video, then the method's similarity.

A texts, B videos, N tokens, N_t words, N_v frames, D width, K candidates.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from models.encoder import Tokens, TokensLike
from models.interaction import TokenRows, unit, weighted_similarity
from models.level import TokenSet, WeightedInteraction
from models.method import SIMILARITY_MEMORY, RetrievalMethod
from utils.errors import InputError

PREPARED = 1024  # videos that a gallery prepares at a time, which takes several times the memory of their tokens


def pooled(
    tokens: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"], weight: Float[Tensor, "B N"] | None = None
) -> Float[Tensor, "B D"]:
    """Unit vector along the weighted mean of unit tokens; a `weight` of None weighs all valid ones equally."""
    weight = mask.float() if weight is None else weight * mask
    return F.normalize(torch.einsum("bn,bnd->bd", weight, F.normalize(tokens.float(), dim=-1)), dim=-1)


@torch.no_grad()
def vectors(
    model: RetrievalMethod, tokens: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"], side: str
) -> Float[Tensor, "B D"]:
    """One vector for each text or video (`side`: "text" or "video").

    Tokens are pooled with the weights of the method's first level: for 99 % of the captions of the 200 built-in test
    videos the most similar video is then among HBI's nearest 10 (with equal weights 65 %). A method without levels uses
    the sentence vector and the mean frame.
    """
    for level in model.token_levels()[:1]:
        tokens_of_side = TokenSet.original(tokens, mask)
        return pooled(tokens, mask, level.token_weights(tokens_of_side, side, skip_padding=True)[1])
    return F.normalize(Tokens(tokens, mask).last().float(), dim=-1) if side == "text" else pooled(tokens, mask)


def check_shortlist(model: RetrievalMethod) -> None:
    """Raise an InputError for a model whose scores depend on the other videos, or on tokens made for each pair."""
    if model.block:
        raise InputError(
            f"{type(model).__name__}: a score of the released recipe depends on the other captions and videos of its "
            "block, so there is no shortlist and no search; give a model of --recipe corrected"
        )
    if any(level.reconstructs for level in model.token_levels()):
        raise InputError(
            "--reconstruct score: every pair has tokens of its own, so there is no shortlist and no search; "
            "give a model of --reconstruct none or game"
        )


class Shortlist:
    """Nearest neighbours by inner product, exact, where the vectors are."""

    def __init__(self, vectors: Float[Tensor, "B D"]):
        self.vectors = vectors.float()

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: Float[Tensor, "A D"], count: int) -> Int[Tensor, "A K"]:
        """Positions of the `count` vectors (or all) nearest to each query, the nearest first.

        Inner products of a block of queries with all vectors are held at a time.
        """
        block = max(1, SIMILARITY_MEMORY // (4 * max(1, len(self))))
        products = (some.float() @ self.vectors.T for some in queries.split(block))
        return torch.cat([some.topk(min(count, len(self)), dim=1).indices for some in products])


class Gallery:
    """Videos with all features that do not depend on the query, computed once."""

    @torch.no_grad()
    def __init__(self, model: RetrievalMethod, tokens: Float[Tensor, "B N_v D"], mask: Shaped[Tensor, "B N_v"]):
        check_shortlist(model)
        self._model, video = model, Tokens(tokens, mask)
        parts = zip(tokens.split(PREPARED), mask.split(PREPARED), strict=True)
        self.shortlist = Shortlist(torch.cat([vectors(model, *part, "video") for part in parts]))
        self._videos, self._levels = video, []
        if model.token_levels():
            levels = zip(model.token_levels(), model.token_sets(video, "video", model.used_levels), strict=False)
            self._videos, self._levels = None, [_ready(level, videos) for level, videos in levels]

    def nearest(self, text: TokensLike, count: int) -> Int[Tensor, "A K"]:
        """The `count` videos (or all) whose `vectors` are nearest to each text's, the nearest first."""
        return self.shortlist.search(vectors(self._model, *text, "text"), count)

    @torch.no_grad()
    def similarity(
        self, text: TokensLike, candidates: Int[Tensor, "A K"], *, memory: int = SIMILARITY_MEMORY
    ) -> Float[Tensor, "A K"]:
        """The model's `similarity` of each text with its candidates, in `memory` bytes, at least one text at a time."""
        sim = torch.zeros(candidates.shape, device=text[0].device)
        if not sim.numel():
            return sim
        model = self._model
        if self._videos is not None:
            for row, near in enumerate(candidates):
                one = Tokens(*(tensor[row : row + 1] for tensor in text))
                sim[row] = model.similarity(one, self._videos.select(near), memory=memory)
            return sim
        for rate, (_, compare) in zip(model.rates, self._comparisons(text, candidates, memory), strict=False):
            if rate:
                sim += rate * compare()
        return sim

    @torch.no_grad()
    def level_similarities(
        self, text: TokensLike, candidates: Int[Tensor, "A K"], *, memory: int = SIMILARITY_MEMORY
    ) -> Iterator[tuple[str, Float[Tensor, "A K"]]]:
        """Name and similarities of each level that evaluation computes; see `similarity`."""
        for name, compare in self._comparisons(text, candidates, memory):
            yield name, compare()

    def _comparisons(
        self, text: TokensLike, candidates: Tensor, memory: int
    ) -> Iterator[tuple[str, Callable[[], Tensor]]]:
        texts = self._model.token_sets(Tokens(*text), "text", self._model.used_levels)
        for level, words, videos in zip(self._model.token_levels(), texts, self._levels, strict=False):
            yield level.name, partial(_near_similarity, level, words, videos, candidates, memory)


def _ready(
    level: WeightedInteraction, videos: TokenSet
) -> tuple[Float[Tensor, "B N_v D"], Float[Tensor, "B N_v"]]:
    """Unit tokens and weights of videos at a level."""
    units = torch.empty_like(videos.tokens, dtype=torch.float32)
    for first in range(0, len(units), PREPARED):
        some = slice(first, first + PREPARED)
        mask = None if videos.mask is None else videos.mask[some]
        units[some] = level.compared(unit(videos.tokens[some], mask), mask)
    return units, level.token_weights(videos, "video", skip_padding=True)[1]


def _near_similarity(
    level: WeightedInteraction,
    words: TokenSet,
    videos: tuple[Float[Tensor, "B N_v D"], Float[Tensor, "B N_v"]],
    candidates: Int[Tensor, "A K"],
    memory: int,
) -> Float[Tensor, "A K"]:
    """Similarity of each text with its candidates at a level, for `videos` that are ready."""
    frames, frame_weight = videos
    word_weight = level.token_weights(words, "text", skip_padding=True)[1]
    at_once = max(1, memory // (4 * candidates.shape[1] * frames[0].numel()))
    units = level.compared(unit(words.tokens, words.mask), words.mask)
    compare = partial(_compare, frames=frames, frame_weight=frame_weight)
    return torch.vmap(compare, chunk_size=at_once)(units, word_weight, candidates)


def _compare(
    words: Float[Tensor, "N_t D"],
    word_weight: Float[Tensor, " N_t"],
    near: Int[Tensor, " K"],
    *,
    frames: Float[Tensor, "B N_v D"],
    frame_weight: Float[Tensor, "B N_v"],
) -> Float[Tensor, " K"]:
    text = TokenRows.of(words.unsqueeze(0), word_weight.unsqueeze(0))
    return weighted_similarity(text, TokenRows.of(frames[near], frame_weight[near])).squeeze(0)
