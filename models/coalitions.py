"""The two coalition games over words and frames, as functions of boolean coalition matrices.

A coalition's value is the sum of two halves (arXiv 2303.14369, section 3.2). The text-to-video half is the weighted
sum, over the words of the coalition, of the maximum similarity to its frames; the other half swaps the roles. A half
takes `sim` (N, M, B): the N rows carry the weights, maxima run over the M columns. Pairs come last, so that sums and
maxima over tokens run over contiguous memory.

`standard` is the definition in the literature. `released` is the game of the published estimator: similarities of
absent tokens are 0 instead of removed; the scores are softmax weights already; and a pair that joins a coalition adds
only its own similarity, under weights that went through the softmax twice.

B pairs, N_t words, N_v frames, C coalitions.
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

GAMES = ("standard", "released")


def check_players(
    token_sim: Float[Tensor, "B N_t N_v"],
    text_mask: Shaped[Tensor, "B N_t"],
    video_mask: Shaped[Tensor, "B N_v"],
    text_score: Float[Tensor, "B N_t"],
    video_score: Float[Tensor, "B N_v"],
    game: str,
) -> None:
    """Raise a ValueError if no interaction can be computed from the arguments."""
    if game not in GAMES:
        raise ValueError(f"game must be one of {', '.join(GAMES)}, not {game!r}")
    if token_sim.dim() != 3:
        raise ValueError(f"token_sim must be (B, N_t, N_v), not of shape {tuple(token_sim.shape)}")
    if not torch.isfinite(token_sim).all():
        raise ValueError("token_sim holds values that are NaN or infinite")
    pairs, words, frames = token_sim.shape
    sides = (("text", words, text_mask, text_score), ("video", frames, video_mask, video_score))
    for name, tokens, mask, score in sides:
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


def coalition_values(
    token_sim: Float[Tensor, "B N_t N_v"],
    text_score: Float[Tensor, "B N_t"],
    video_score: Float[Tensor, "B N_v"],
    text: Bool[Tensor, "C B N_t"],
    video: Bool[Tensor, "C B N_v"],
    game: str = "standard",
) -> Float[Tensor, "C B"]:
    """Value of each coalition of `text` and `video` (arXiv 2303.14369, section 3.2); 0 where either side is empty.

    Padding is no member; in "released" its similarities are 0.
    """
    sim, rows, columns = token_sim.permute(1, 2, 0), text.movedim(-1, 0), video.movedim(-1, 0)
    text_half = _weights(text_score.mT, rows) * _settle(_maxima(sim, columns), columns, game)
    video_half = _weights(video_score.mT, columns) * _settle(_maxima(sim.transpose(0, 1), rows), rows, game)
    return (text_half.sum(0) + video_half.sum(0)) / 2


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
