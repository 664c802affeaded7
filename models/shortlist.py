"""Two-stage retrieval: a shortlist by one vector for each text and video, then the method's similarity.

A texts, B videos, N tokens, N_t words, N_v frames, D width, K candidates.
"""

from functools import partial

import faiss
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from models.encoder import Tokens, TokensLike
from models.interaction import TokenRows, unit, weighted_similarity
from models.level import TokenSet
from models.method import SIMILARITY_MEMORY, RetrievalMethod
from models.token_levels import full_precision
from utils.errors import InputError
from utils.gather import gather_shards

MERGED = 1024  # videos that a gallery merges at a time, which takes several times the memory of their tokens


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
    """Raise an InputError for a model whose scores depend on the other videos."""
    if model.block:
        raise InputError(
            f"{type(model).__name__}: a score of the released recipe depends on the other captions and videos of its "
            "block, so there is no shortlist and no search; give a model of --recipe corrected"
        )


class Shortlist:
    """Nearest neighbours by inner product, exact, on the CPU."""

    def __init__(self, vectors: Float[Tensor, "B D"]):
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(_rows(vectors))

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def vectors(self) -> Float[Tensor, "B D"]:
        """The vectors, on the CPU."""
        return torch.from_numpy(self._index.reconstruct_n(0, len(self)))

    def search(self, queries: Float[Tensor, "A D"], count: int) -> Int[Tensor, "A K"]:
        """Positions of the `count` vectors (or all) nearest to each query, the nearest first, on the CPU."""
        return torch.from_numpy(self._index.search(_rows(queries), min(count, len(self)))[1])


class Gallery:
    """Videos with all features that do not depend on the query, computed once.

    `together` videos are merged at a time; in the released recipe clusters of clips of less than three frames depend on
    it.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: RetrievalMethod,
        tokens: Float[Tensor, "B N_v D"],
        mask: Shaped[Tensor, "B N_v"],
        *,
        together: int = MERGED,
    ):
        check_shortlist(model)
        self._model, parts = model, list(zip(tokens.split(together), mask.split(together), strict=True))
        self.shortlist = Shortlist(torch.cat([vectors(model, *part, "video") for part in parts]))
        self._videos, self._levels = None, []
        if model.token_levels():
            levels = zip(*(_ready(model, *part) for part in parts), strict=True)
            self._levels = [tuple(map(torch.cat, zip(*level, strict=True))) for level in levels]
        else:
            self._videos = Tokens(tokens, mask)

    def nearest(self, text: TokensLike, count: int) -> Int[Tensor, "A K"]:
        """The `count` videos (or all) whose `vectors` are nearest to each text's, the nearest first."""
        return self.shortlist.search(vectors(self._model, *text, "text"), count).to(self._model.device)

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
        texts = model.token_sets(Tokens(*text), "text", model.used_levels)
        levels = zip(model.rates, model.token_levels(), texts, self._levels, strict=False)
        for rate, level, words, (frames, frame_weight) in levels:
            if rate:
                word_weight = level.token_weights(words, "text", skip_padding=True)[1]
                compare = partial(_compare, frames=frames, frame_weight=frame_weight)
                at_once = max(1, memory // (4 * candidates.shape[1] * frames[0].numel()))
                units = level.compared(unit(words.tokens, words.mask), words.mask)
                found = torch.vmap(compare, chunk_size=at_once)(units, word_weight, candidates)
                sim += rate * found
        return sim


@torch.no_grad()
@full_precision
def two_stage_similarity(
    model: RetrievalMethod, text: TokensLike, video: TokensLike, count: int, **options
) -> Float[Tensor, "A B"]:
    """Similarities whose order is that of two stages: a shortlist by `vectors`, ranked by the method's similarity.

    All processes call it together, each with its texts and all videos. The `count` nearest videos of a text have the
    model's similarity; the others have smaller values, in the order of their vectors. `options` are those of
    `Gallery.similarity`.
    """
    gallery, texts = Gallery(model, *video, together=max(1, len(video[0]))), vectors(model, *text, "text")
    candidates = gallery.shortlist.search(texts, count).to(texts.device)
    sim = gallery.similarity(text, candidates, **options)
    lowest = torch.cat([sim.flatten(), sim.new_full((1,), torch.inf)]).nan_to_num(nan=torch.inf).amin()
    behind = gather_shards(lowest.view(1)).amin() - 2  # inner products are in [-1, 1]
    return (texts @ gallery.shortlist.vectors.to(texts.device).T + behind).scatter_(1, candidates, sim)


def _ready(
    model: RetrievalMethod, tokens: Tensor, mask: Tensor
) -> list[tuple[Float[Tensor, "B N_v D"], Float[Tensor, "B N_v"]]]:
    # Unit tokens and weights of videos at each used level.
    sets = model.token_sets(Tokens(tokens, mask), "video", model.used_levels)
    levels = zip(model.token_levels(), sets, strict=False)
    return [
        (
            level.compared(unit(some.tokens, some.mask), some.mask),
            level.token_weights(some, "video", skip_padding=True)[1],
        )
        for level, some in levels
    ]


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


def _rows(vectors: Tensor):
    return vectors.detach().float().cpu().contiguous().numpy()
