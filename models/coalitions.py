"""The two coalition games over words and frames, on boolean coalition matrices.

A coalition's value is the sum of two halves (arXiv 2303.14369, section 3.2). The text-to-video half is the weighted
sum, over the words of the coalition, of the maximum similarity to its frames; the other half swaps the roles. A half
takes `sim` (N, M, B): the N rows carry the weights, maxima run over the M columns. Pairs come last, so that sums and
maxima over tokens run over contiguous memory.

`standard` is the definition in the literature. `released` is the game of the published estimator: similarities of
absent tokens are 0 instead of removed; the scores are softmax weights already; and a pair that joins a coalition adds
only its own similarity, under weights that went through the softmax twice.

B pairs, N_t words, N_v frames, C coalitions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

GAMES = ("standard", "released")


class Pairs(NamedTuple):
    """The true pairs that a game is played on; a mask of None masks no padding."""

    token_sim: Float[Tensor, "B N_t N_v"]
    text_mask: Shaped[Tensor, "B N_t"] | None
    video_mask: Shaped[Tensor, "B N_v"] | None
    text_score: Float[Tensor, "B N_t"]
    video_score: Float[Tensor, "B N_v"]

    def masks(self) -> tuple[Shaped[Tensor, "B N_t"], Shaped[Tensor, "B N_v"]]:
        """The masks, ones in place of None."""
        text = torch.ones_like(self.text_score) if self.text_mask is None else self.text_mask
        video = torch.ones_like(self.video_score) if self.video_mask is None else self.video_mask
        return text, video


def check_players(given: Pairs, game: str) -> None:
    """Raise a ValueError if no interaction can be computed from the pairs."""
    if game not in GAMES:
        raise ValueError(f"game must be one of {', '.join(GAMES)}, not {game!r}")
    if given.token_sim.dim() != 3:
        raise ValueError(f"token_sim must be (B, N_t, N_v), not of shape {tuple(given.token_sim.shape)}")
    if not torch.isfinite(given.token_sim).all():
        raise ValueError("token_sim holds values that are NaN or infinite")
    pairs, *sizes = given.token_sim.shape
    scores = given.text_score, given.video_score
    for name, tokens, mask, score in zip(("text", "video"), sizes, given.masks(), scores, strict=True):
        if tokens < 2:
            raise ValueError(f"an interaction needs at least two {name} tokens, not {tokens}")
        for kind, tensor in (("mask", mask), ("score", score)):
            if tensor.shape != (pairs, tokens):
                raise ValueError(f"{name}_{kind} must be of shape {(pairs, tokens)}, not {tuple(tensor.shape)}")
        valid = mask.bool()
        if not valid.any(-1).all():
            raise ValueError(f"{name}_mask has a row without a valid token")
        if not torch.isfinite(score[valid]).all():
            raise ValueError(f"{name}_score holds values that are NaN or infinite at valid tokens")


def half_interaction(
    sim: Float[Tensor, "N M B"],
    score: Float[Tensor, "N B"],
    rows: Bool[Tensor, "N C B"],
    columns: Bool[Tensor, "M C B"],
    row: Int[Tensor, " C"],
    column: Int[Tensor, " C"],
    game: str,
) -> Float[Tensor, "C B"]:
    """One half of v(C + ij) - v(C + i) - v(C + j) + v(C), i and j being the players at `row` and `column`.

    Neither these nor padding are among the members `rows` and `columns`. Meaningless where a player is padding.
    """
    joining = one_hot(row, len(rows))
    joined = rows | joining
    without, within = _weights(score, rows), _weights(score, joined)
    best = _maxima(sim, columns)
    own = sim[:, column]  # (N, C, B)
    low = _settle(best, columns, game)
    high = _settle(torch.maximum(best, own), columns | one_hot(column, len(columns)), game)
    if game == "standard":
        return ((within - without) * (high - low)).sum(0) / 2
    pair = _weights(without + score.unsqueeze(1) * joining, joined) * torch.where(joining, own.relu(), low)
    return (pair - within * low - without * (high - low)).sum(0) / 2


def one_hot(player: Int[Tensor, " C"], players: int) -> Bool[Tensor, "{players} C 1"]:
    """True at the player."""
    return (torch.arange(players, device=player.device).unsqueeze(1) == player).unsqueeze(-1)


def _weights(
    score: Float[Tensor, "N B"] | Float[Tensor, "N C B"], members: Bool[Tensor, "N C B"]
) -> Float[Tensor, "N C B"]:
    score = score if score.dim() == 3 else score.unsqueeze(1)
    return torch.where(members, score, torch.finfo(score.dtype).min).softmax(0) * members


def _maxima(sim: Float[Tensor, "N M B"], members: Bool[Tensor, "M C B"]) -> Float[Tensor, "N C B"]:
    # Largest similarity of each row to the members among the columns; -inf for the empty coalition.
    penalty = torch.zeros((), dtype=sim.dtype, device=sim.device).where(members, -torch.inf)
    return (sim.unsqueeze(2) + penalty).amax(1)


def _settle(best: Float[Tensor, "N C B"], members: Bool[Tensor, "M C B"], game: str) -> Float[Tensor, "N C B"]:
    # The maxima over the members, corrected by the game's rule for absent tokens.
    if game == "standard":
        return best.masked_fill(best == -torch.inf, 0.0)
    return torch.where(members.all(0), best, best.relu())
