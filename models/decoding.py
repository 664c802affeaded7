"""Beam search; greedy with one beam.

Dimension letters: B sentences, K beams, L words at most, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Selectable(Protocol):
    """State of decoding for each sentence."""

    def select(self: "State", index: Tensor) -> "State":
        """The states at some positions."""


State = TypeVar("State", bound=Selectable)


class Beams(NamedTuple):
    """The sentences found, the best first.

    Attributes:
        ids: int64 (B, K, L), without the start token, filled up with the end token.
        log_probs: (B, K, L), of each word and the end token, 0 after it.
        lengths: int64 (B, K), words and the end token.
        scores: (B, K), sum of the log-probabilities / length ** exponent.
    """

    ids: Tensor
    log_probs: Tensor
    lengths: Tensor
    scores: Tensor

    def best(self) -> "Beams":
        """The best beam alone, without the axis of beams."""
        return Beams(*(tensor[:, 0] for tensor in self))


@torch.no_grad()
def beam_search(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    state: State,
    first: Tensor,
    *,
    end: int,
    beams: int,
    length: int,
    exponent: float = 1.0,
) -> Beams:
    """Find likely sentences; finished ones keep their place among the beams.

    Args:
        step: takes the last words (B * K,) and a state, returns log-probabilities (B * K, V) and the next state.
        state: of B sentences before their first word.
        first: int64 (B,), the start tokens.
        end: the end token.
        beams: K; 1 takes the most likely word each time.
        length: L, the end token included.
        exponent: of the length in a score.
    """
    batch = len(first)
    place = torch.arange(batch, device=first.device).unsqueeze(1)  # (B, 1)
    state, last = state.select(place.repeat_interleave(beams)), first.repeat_interleave(beams)
    ids = first.new_full((batch, beams, length), end)
    log_probs = torch.zeros(batch, beams, length, device=first.device)
    total = log_probs.new_full((batch, beams), -torch.inf)
    total[:, 0] = 0  # all beams are equal at first
    lengths, done = torch.zeros_like(ids[..., 0]), torch.zeros_like(ids[..., 0], dtype=torch.bool)
    for word in range(length):
        found, state = step(last, state)
        found = found.float().unflatten(0, (batch, beams))  # (B, K, V)
        found = found.masked_fill(done.unsqueeze(-1), -torch.inf)
        found[..., end] = found[..., end].masked_fill(done, 0)  # a finished sentence is repeated unchanged
        lengths = lengths + ~done
        score = (total.unsqueeze(-1) + found) / lengths.unsqueeze(-1) ** exponent
        chosen = score.flatten(1).topk(beams).indices
        beam, last = chosen // found.shape[-1], chosen % found.shape[-1]  # (B, K)
        ids, log_probs, lengths, done = (tensor[place, beam] for tensor in (ids, log_probs, lengths, done))
        ids[..., word], log_probs[..., word] = last, found[place, beam, last]
        total = total[place, beam] + log_probs[..., word]
        state, last = state.select((place * beams + beam).flatten()), last.flatten()
        done = done | (ids[..., word] == end)
        if done.all():
            break
    return Beams(ids, log_probs, lengths, total / lengths**exponent)
