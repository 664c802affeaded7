"""Token-wise interaction: from two sets of tokens to similarities.

A texts, B videos, N tokens, N_t words, N_v frames, D width; a row is one token of one sequence.
Source: HBI, arXiv 2303.14369; weighted token-wise interaction of DRL, arXiv 2203.07111.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PADDED_SCORE = -9e15
BLOCK_MEMORY = 64 * 2**20  # bytes of token similarities that training keeps at a time


class TokenWeight(nn.Sequential):
    """A score per token; softmax over the tokens gives the weights."""

    def __init__(self, width: int, hidden: Sequence[int] | None = None):
        """Args: width: D; hidden: widths of the layers between; None: one of 2 D, as in HBI."""
        widths = (width, *((2 * width,) if hidden is None else hidden))
        layers = (layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU()))
        super().__init__(*layers, nn.Linear(widths[-1], 1))

    def forward(
        self, tokens: Float[Tensor, "*B D"], mask: Shaped[Tensor, "*B"] | None = None
    ) -> Float[Tensor, "*B"]:
        """Score tokens; padding, where `mask` is 0, gets weight 0."""
        score = super().forward(tokens).squeeze(-1)
        return score if mask is None else score.float().masked_fill(mask == 0, PADDED_SCORE)


def token_similarity(
    text: Float[Tensor, "A N_t D"], video: Float[Tensor, "B N_v D"]
) -> Float[Tensor, "A B N_t N_v"]:
    """Cosine of every word with every frame of all pairs, from unit tokens; 0 at padding."""
    return torch.einsum("atd,bvd->abtv", text, video)


def unit(tokens: Float[Tensor, "*B D"], mask: Shaped[Tensor, "*B"] | None) -> Float[Tensor, "*B D"]:
    """Scale tokens to length 1, in float32, and padding to 0."""
    tokens = tokens.float()
    length = tokens.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return tokens / (length if mask is None else length.masked_fill(mask.unsqueeze(-1) == 0, torch.inf))


def repeat_first(tokens: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
    """Replace padding by the first token, so that it cannot change a maximum."""
    return tokens if mask is None else tokens.where(mask.unsqueeze(-1) != 0, tokens[:, :1])


@dataclass(frozen=True)
class TokenRows:
    """Some sequences laid out for `weighted_similarity`."""

    # Unit tokens, N B rows or more: first tokens of all sequences, second tokens of all, ...; then zeros.
    tokens: Float[Tensor, "rows D"]
    weight: Float[Tensor, "N B"]  # of each token's best match
    cut: bool = False  # whether padding was cut off; its cosines, all 0, still take part in the maxima

    @classmethod
    def of(cls, tokens: Float[Tensor, "B N D"], weight: Float[Tensor, "B N"]) -> "TokenRows":
        """Lay out unit tokens."""
        return cls(tokens.transpose(0, 1).flatten(0, 1), weight.mT)


def weighted_similarity(text: TokenRows, video: TokenRows) -> Float[Tensor, "A B"]:
    """Average of both directions' weighted best matches, of every text with every video.

    The maxima run over outer axes, so that neighbours in memory are pairs; all sums are float32.
    """
    product = text.tokens @ video.tokens.mT
    used = product[: text.weight.numel(), : video.weight.numel()]
    token_sim = used.unflatten(1, video.weight.shape).unflatten(0, text.weight.shape)  # (N_t, A, N_v, B)
    best_frame = _largest(token_sim, dim=2, cut=video.cut)  # (N_t, A, B)
    best_word = _largest(token_sim, dim=0, cut=text.cut)  # (A, N_v, B)
    text_to_video = (best_frame * text.weight.unsqueeze(2)).sum(dim=0)
    video_to_text = (best_word * video.weight).sum(dim=1)
    return (text_to_video + video_to_text) / 2


def _largest(values: Float[Tensor, "..."], dim: int, cut: bool) -> Float[Tensor, "..."]:
    # Exact maxima, at least 0 if `cut`; NaN may then be lost in bfloat16.
    if not cut:
        return values.amax(dim)
    if values.dtype is torch.bfloat16:
        # Integers of the same bits are several times as fast, and have the same order from 0 on.
        return values.view(torch.int16).amax(dim).clamp_(min=0).view(values.dtype)
    return values.amax(dim).clamp_(min=0)


def similarity_for_training(
    text: Float[Tensor, "A N_t D"],
    video: Float[Tensor, "B N_v D"],
    text_weight: Float[Tensor, "A N_t"],
    video_weight: Float[Tensor, "B N_v"],
) -> Float[Tensor, "A B"]:
    """`weighted_similarity` of all pairs, from unit tokens, in bounded memory and with gradient.

    Token similarities of more than `BLOCK_MEMORY` are computed block by block, with activation checkpointing.
    """

    def compare(text: Tensor, text_weight: Tensor) -> Tensor:
        return weighted_similarity(TokenRows.of(text, text_weight), TokenRows.of(video, video_weight))

    texts = max(1, BLOCK_MEMORY // (4 * text.shape[1] * video.shape[0] * video.shape[1]))
    if not torch.is_grad_enabled() or texts >= len(text):
        return compare(text, text_weight)
    blocks = zip(text.split(texts), text_weight.split(texts), strict=True)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(compare, *block, **options) for block in blocks])
