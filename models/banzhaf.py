"""Banzhaf interaction of every word with every frame: sampled, exact, and learned (arXiv 2303.14369, section 3).

I(i, j) = E[v(C + ij) - v(C + i) - v(C + j) + v(C)] over coalitions C of the other tokens, each a member with
probability 1/2. The games v are those of `models.coalitions`; `docs/banzhaf.md` derives the exact formulas.

B pairs, N_t words, N_v frames, S sampled coalitions per cell; N and M the tokens of either side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from models.coalitions import Pairs, check_players, half_interaction, one_hot
from models.estimator import BanzhafModule
from models.expectations import expected_maxima, expected_weights, renormalised_gain

__all__ = ["BanzhafModule"]  # re-exported for users of the published code

LABEL_SCALE = 1000.0  # factor on the cosine similarities from which the estimator's labels are made
SCORE_SPAN = 40.0  # scores further apart differ in weight by more than the 17 digits of a float64
CACHE_MEMORY = 2**24  # bytes of intermediate tensors that a processor's cache holds
GPU_MEMORY = 2**30  # the same on a GPU, where each chunk costs some thirty kernels

Coalitions = tuple[Shaped[Tensor, "N_t N_v S B N_t"], Shaped[Tensor, "N_t N_v S B N_v"]]


@dataclass(frozen=True)
class GameOptions:
    """How an interaction is computed."""

    # Source of the draws; None: a fixed seed for `exact_interaction`, so that results are reproducible, and PyTorch's
    # generator for `sampled_interaction`.
    generator: torch.Generator | None = None
    # Bytes of intermediate tensors, which determine the chunks, at least one pair or coalition. None: by the device.
    memory: int | None = None
    # Check the players, which needs host-device syncs. Unchecked, the standard game also allows a side of one token.
    check: bool = True
    # Bound on the range of scores in a pair of the exact standard game, see `models.expectations.expected_weights`.
    # With it and without `check` no host-device sync is needed.
    span: float | None = None
    # Members (0 or 1) among words and frames instead of drawn ones; the players themselves and padding are removed.
    coalitions: Coalitions | None = None

    def memory_on(self, tensor: Tensor) -> int:
        """Bytes of intermediate tensors where `tensor` is."""
        return self.memory or (GPU_MEMORY if tensor.is_cuda else CACHE_MEMORY)


DEFAULTS = GameOptions()


class Players(NamedTuple):
    """Tokens of B pairs, 0 at padding: the N rows carry the weights, maxima run over the M columns."""

    sim: Float[Tensor, "B N M"]
    rows: Bool[Tensor, "B N"]
    columns: Bool[Tensor, "B M"]
    row_score: Float[Tensor, "B N"]
    column_score: Float[Tensor, "B M"]

    def swapped(self) -> "Players":
        """The players of the other half."""
        return Players(self.sim.mT, self.columns, self.rows, self.column_score, self.row_score)

    def cells(self) -> Bool[Tensor, "B N M"]:
        """Where neither player is padding."""
        return self.rows.unsqueeze(2) & self.columns.unsqueeze(1)


def exact_interaction(
    token_sim: Float[Tensor, "B N_t N_v"],
    text_mask: Shaped[Tensor, "B N_t"],
    video_mask: Shaped[Tensor, "B N_v"],
    text_score: Float[Tensor, "B N_t"],
    video_score: Float[Tensor, "B N_v"],
    game: str = "standard",
    coalitions: int = 64,
    options: GameOptions = DEFAULTS,
) -> Float[Tensor, "B N_t N_v"]:
    """Banzhaf interaction by the closed form of each game, 0 at padding.

    Computed in float32 (float64 for float64 input), under autocast too. The standard game is exact and differentiable
    in `token_sim` and both scores. The released game gives no gradient; it is exact where a side has at most 12 valid
    tokens, and otherwise draws `coalitions` for each token, for the one factor without a closed form.

    Scores are logits of the softmax in "standard", softmax weights in "released". Values at padding are ignored. Bad
    players are a ValueError, see `models.coalitions.check_players`.
    """
    if coalitions < 1:
        raise ValueError(f"coalitions must be at least 1, not {coalitions}")
    given = Pairs(token_sim, text_mask, video_mask, text_score, video_score)
    if options.check:
        check_players(given, game)
    with torch.autocast(token_sim.device.type, enabled=False):
        players = _prepare(given)
        if game == "standard":
            half = partial(_standard_half, span=options.span)
            return half(players) + half(players.swapped()).mT
        with torch.no_grad():
            half = partial(_released_half, coalitions=coalitions, options=options)
            return (half(players) + half(players.swapped()).mT) * players.cells()


def exact_interaction_of_cosines(pairs: Pairs) -> Float[Tensor, "B N_t N_v"]:
    """Exact interaction of true pairs in the standard game, scaled as the estimator's labels.

    Needs no host-device sync. Scores are logits of the softmax.
    """
    scores, in_training = (pairs.text_score, pairs.video_score), GameOptions(span=SCORE_SPAN, check=False)
    return exact_interaction(LABEL_SCALE * pairs.token_sim, *pairs.masks(), *scores, options=in_training)


def _standard_half(players: Players, span: float | None) -> Float[Tensor, "B N M"]:
    absent, present = expected_weights(players.row_score, players.rows, span)
    low, high = expected_maxima(players.sim, players.columns)
    return (present - absent) @ (high - low) / 2


def _released_half(players: Players, coalitions: int, options: GameOptions) -> Float[Tensor, "B N M"]:
    sim, rows, columns, weight, _ = players
    absent, present = expected_weights(weight, rows)
    low, high = expected_maxima(sim.relu(), columns)
    # A maximum is negative only if all columns are valid and present: absent ones count as 0.
    everyone = sim.amax(-1).clamp(max=0) * columns.all(-1, keepdim=True) / 2 ** (sim.shape[-1] - 1)
    high = high + everyone.unsqueeze(-1)
    gain = renormalised_gain(weight, rows, coalitions, options.memory_on(sim), options.generator)
    own = (present + gain).diagonal(dim1=1, dim2=2).unsqueeze(-1)  # (B, N, 1)
    return (gain @ low + own * (sim.relu() - low) + absent @ (low - high)) / 2


def sampled_interaction(
    token_sim: Float[Tensor, "B N_t N_v"],
    text_mask: Shaped[Tensor, "B N_t"],
    video_mask: Shaped[Tensor, "B N_v"],
    text_score: Float[Tensor, "B N_t"],
    video_score: Float[Tensor, "B N_v"],
    game: str = "released",
    num: int = 100,
    options: GameOptions = DEFAULTS,
) -> Float[Tensor, "B N_t N_v"]:
    """Banzhaf interaction averaged over `num` sampled coalitions per cell, as published; no gradient, 0 at padding."""
    given = Pairs(token_sim, text_mask, video_mask, text_score, video_score)
    if options.check:
        check_players(given, game)
    with torch.no_grad(), torch.autocast(token_sim.device.type, enabled=False):
        players = _prepare(given)
        (pairs, words, frames), sim = players.sim.shape, players.sim
        members, num = _membership(players, num, options)
        total = sim.new_zeros(words * frames, pairs)
        by_row, by_column = (sim.permute(axes).contiguous() for axes in ((1, 2, 0), (2, 1, 0)))
        chunk = max(1, options.memory_on(sim) // (2 * sim.element_size() * sim.numel()))
        for index in torch.arange(words * frames * num, device=sim.device).split(chunk):
            cell = index // num
            i, j = cell // frames, cell % frames
            rows, columns = (
                joins.to(sim.device).permute(2, 0, 1) & mask.mT.unsqueeze(1) & ~one_hot(player, mask.shape[1])
                for joins, mask, player in zip(members(index), players[1:3], (i, j), strict=True)
            )
            text_half = half_interaction(by_row, players.row_score.mT, rows, columns, i, j, game)
            video_half = half_interaction(by_column, players.column_score.mT, columns, rows, j, i, game)
            total.index_add_(0, cell, text_half + video_half)
        return (total / num).mT.reshape(sim.shape) * players.cells()


def _membership(
    players: Players, num: int, options: GameOptions
) -> tuple[Callable[[Int[Tensor, " C"]], tuple[Tensor, ...]], int]:
    """A function from sample numbers to membership of words and frames, (C, B, N) each; number of samples per cell."""
    (pairs, words, frames), device = players.sim.shape, players.sim.device
    if options.coalitions is not None:
        num = options.coalitions[0].shape[2]
        for name, given, tokens in zip(("text", "video"), options.coalitions, (words, frames), strict=True):
            if given.shape != (words, frames, num, pairs, tokens):
                expected = words, frames, num, pairs, tokens
                raise ValueError(f"{name} coalitions must be of shape {expected}, not {tuple(given.shape)}")
    if num < 1:
        raise ValueError(f"at least one sample is needed, not {num}")

    def draw(index: Tensor) -> tuple[Tensor, ...]:
        source = device if options.generator is None else options.generator.device
        drawn = torch.rand(len(index), pairs, words + frames, generator=options.generator, device=source)
        return (drawn > 0.5).split((words, frames), dim=-1)

    def select(index: Tensor) -> tuple[Tensor, ...]:
        return tuple(given.flatten(0, 2)[index.to(given.device)].bool() for given in options.coalitions or ())

    return draw if options.coalitions is None else select, num


class BanzhafInteraction(nn.Module):
    """The estimator's labels as in the published code: sampled, for fixed sizes, on scaled similarities."""

    def __init__(self, t_len: int, v_len: int, num: int, *, game: str = "released"):
        """Args: t_len, v_len: N_t, N_v; num: sampled coalitions per cell; game: "released" or "standard"."""
        super().__init__()
        self.t_len, self.v_len, self.num, self.game = t_len, v_len, num, game

    def forward(
        self,
        retrieve_logits: Float[Tensor, "B N_t N_v"],
        text_mask: Shaped[Tensor, "B N_t"],
        video_mask: Shaped[Tensor, "B N_v"],
        text_weight: Float[Tensor, "B N_t"],
        video_weight: Float[Tensor, "B N_v"],
        text_coalitions: Tensor | None = None,
        video_coalitions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B N_t N_v"]:
        """Sample the interaction of `LABEL_SCALE` times the cosines of true pairs; see `sampled_interaction`."""
        if retrieve_logits.shape[1:] != (self.t_len, self.v_len):
            expected = f"(B, {self.t_len}, {self.v_len})"
            raise ValueError(f"retrieve_logits must be {expected}, not of shape {tuple(retrieve_logits.shape)}")
        if (text_coalitions is None) != (video_coalitions is None):
            raise ValueError("text_coalitions and video_coalitions are given together or not at all")
        both = None if text_coalitions is None or video_coalitions is None else (text_coalitions, video_coalitions)
        options = GameOptions(generator=generator, coalitions=both)
        players = LABEL_SCALE * retrieve_logits, text_mask, video_mask, text_weight, video_weight
        return sampled_interaction(*players, game=self.game, num=self.num, options=options)


def _prepare(given: Pairs) -> Players:
    dtype = torch.promote_types(given.token_sim.dtype, torch.float32)
    text, video = (mask.bool() for mask in given.masks())
    sim = given.token_sim.to(dtype).masked_fill((text.unsqueeze(2) & video.unsqueeze(1)).logical_not(), 0.0)
    word = given.text_score.to(dtype).masked_fill(text.logical_not(), 0.0)
    frame = given.video_score.to(dtype).masked_fill(video.logical_not(), 0.0)
    return Players(sim, text, video, word, frame)
