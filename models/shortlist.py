"""The nearest videos by one vector each, found before the few that are near are compared as the method does.

Dimension letters: A texts, B videos, N tokens, N_t words, N_v frames, D width, K candidates.
"""

from functools import partial

import faiss
import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder import Tokens
from models.interaction import TokenRows, unit, weighted_similarity
from models.level import TokenSet
from models.method import SIMILARITY_MEMORY, RetrievalMethod
from models.token_levels import full_precision
from utils.distributed import gather_shards
from utils.errors import InputError

MERGED = 1024
"""Videos that a gallery merges at a time: it takes several times the memory of their tokens."""


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
def vectors(model: RetrievalMethod, tokens: Tensor, mask: Tensor, side: str) -> Tensor:
    """Vectors (B, D) of texts or videos (`side`: "text" or "video"), tokens (B, N, D) and mask (B, N).

    Tokens are pooled by the weights of the method's first level: on the 200 test videos of the built-in corpus the
    video of the largest similarity is then among HBI's nearest 10 for 99 % of the captions, where all tokens count
    alike for 65 %. A method without levels compares the sentence vector with the frames: these are averaged.
    """
    for level in model.token_levels()[:1]:
        tokens_of_side = TokenSet.original(tokens, mask)
        return pooled(tokens, mask, level.token_weights(tokens_of_side, side, skip_padding=True)[1])
    return F.normalize(Tokens(tokens, mask).last().float(), dim=-1) if side == "text" else pooled(tokens, mask)


def check_shortlist(model: RetrievalMethod) -> None:
    """Refuse a model that cannot compare a few videos with a text.

    Raises:
        InputError: its scores depend on the other videos.
    """
    if model.block:
        raise InputError(
            f"{type(model).__name__}: a score of the released recipe depends on the other captions and videos of its "
            "block, so there is no shortlist and no search; give a model of --recipe corrected"
        )


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

    @property
    def vectors(self) -> Tensor:
        """The vectors (B, D), on the CPU."""
        return torch.from_numpy(self._index.reconstruct_n(0, len(self)))

    def search(self, queries: Tensor, count: int) -> Tensor:
        """The nearest vectors of each query.

        Args:
            queries: (A, D).
            count: K, how many; more than there are gives all.

        Returns:
            int64 (A, K), positions of the vectors, the nearest first, on the CPU.
        """
        return torch.from_numpy(self._index.search(_rows(queries), min(count, len(self)))[1])


class Gallery:
    """Videos made ready for questions: all that does not depend on the question is computed once.

    Args:
        model: compares.
        tokens: (B, N_v, D), where the model is.
        mask: (B, N_v).
        together: videos that are merged at a time; under the released recipe the clusters of clips of fewer than three
            frames depend on it.
    """

    @torch.no_grad()
    def __init__(self, model: RetrievalMethod, tokens: Tensor, mask: Tensor, *, together: int = MERGED):
        check_shortlist(model)
        self._model, parts = model, list(zip(tokens.split(together), mask.split(together), strict=True))
        self.shortlist = Shortlist(torch.cat([vectors(model, *part, "video") for part in parts]))
        self._videos, self._levels = None, []
        if model.token_levels():
            levels = zip(*(_ready(model, *part) for part in parts), strict=True)
            self._levels = [tuple(map(torch.cat, zip(*level, strict=True))) for level in levels]
        else:
            self._videos = Tokens(tokens, mask)

    def nearest(self, text: tuple[Tensor, Tensor], count: int) -> Tensor:
        """The videos whose `vectors` are nearest to each text's.

        Args:
            text: tokens (A, N_t, D) and mask (A, N_t).
            count: K, how many; more than there are gives all.

        Returns:
            int64 (A, K), the nearest first, where the model is.
        """
        return self.shortlist.search(vectors(self._model, *text, "text"), count).to(self._model.device)

    @torch.no_grad()
    def similarity(
        self, text: tuple[Tensor, Tensor], candidates: Tensor, *, memory: int = SIMILARITY_MEMORY
    ) -> Tensor:
        """What the model's `similarity` gives for some videos of each text.

        Args:
            text: tokens (A, N_t, D) and mask (A, N_t).
            candidates: int64 (A, K), which videos each text is compared with.
            memory: bytes that the candidates' tokens may take at a time, at least one text's.

        Returns:
            (A, K), float32.
        """
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
    model: RetrievalMethod, text: tuple[Tensor, Tensor], video: tuple[Tensor, Tensor], count: int, **options
) -> Tensor:
    """Similarities whose order is that of two stages: a shortlist by `vectors`, ranked by the method's similarity.

    All processes call it together, each with its texts and all videos.

    Args:
        model: compares.
        text: tokens (A, N_t, D) and mask (A, N_t).
        video: tokens (B, N_v, D) and mask (B, N_v).
        count: K, videos of each text's shortlist; more than there are gives all.
        **options: of `Gallery.similarity`.

    Returns:
        (A, B), float32: the model's similarity to the videos in the shortlist; the others' are smaller than any of
        these on any process, and follow in the order of their vectors.
    """
    gallery, texts = Gallery(model, *video, together=max(1, len(video[0]))), vectors(model, *text, "text")
    candidates = gallery.shortlist.search(texts, count).to(texts.device)
    sim = gallery.similarity(text, candidates, **options)
    lowest = torch.cat([sim.flatten(), sim.new_full((1,), torch.inf)]).nan_to_num(nan=torch.inf).amin()
    behind = gather_shards(lowest.view(1)).amin() - 2  # inner products lie within 1 of 0
    return (texts @ gallery.shortlist.vectors.to(texts.device).T + behind).scatter_(1, candidates, sim)


def _ready(model: RetrievalMethod, tokens: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Unit tokens (B, N_v, D) and weights (B, N_v) of videos at each used level."""
    sets = model.token_sets(Tokens(tokens, mask), "video", model.used_levels)
    levels = zip(model.token_levels(), sets, strict=False)
    return [
        (
            level.compared(unit(some.tokens, some.mask), some.mask),
            level.token_weights(some, "video", skip_padding=True)[1],
        )
        for level, some in levels
    ]


def _compare(words: Tensor, word_weight: Tensor, near: Tensor, *, frames: Tensor, frame_weight: Tensor) -> Tensor:
    """Similarity (K,) of one text, unit tokens (N_t, D) and weights (N_t), with the videos `near` (K)."""
    text = TokenRows.of(words.unsqueeze(0), word_weight.unsqueeze(0))
    return weighted_similarity(text, TokenRows.of(frames[near], frame_weight[near])).squeeze(0)


def _rows(vectors: Tensor):
    """Vectors as the array that faiss takes."""
    return vectors.detach().float().cpu().contiguous().numpy()
