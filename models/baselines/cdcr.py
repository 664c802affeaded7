"""Channel decorrelation of DRL: channels of matching features correlate with themselves alone.

Dimension letters: B pairs, N tokens, N_t words, N_v frames, D width, M samples.
Source: Disentangled Representation Learning for Text-Video Retrieval, arXiv 2203.07111, section 3.4, in the form of the
released code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder import Tokens
from utils.gather import gather_shards, shard

Match = tuple[Tensor, Tensor, Tensor | float]
"""Matching unit features, (M, D) each, and the weight of each of the M pairs in the correlation."""


def correlation(own: Tensor, match: Tensor, share: Tensor | float, *, over_samples: bool) -> Tensor:
    """Correlation (D, D) of the channels of a `Match`; see `Recipe.cdcr_over_samples`."""
    samples = len(own)
    own, match = ((x - x.mean(dim=0)) / x.std(dim=0) for x in (own, match))
    if not over_samples:
        own = own * (samples / (samples - 1))
    return (own * torch.as_tensor(share).view(-1, 1).to(own)).T @ match


def random_matches(text: Tokens, video: Tokens) -> list[Match]:
    """One random word and one random frame of each pair."""
    words, frames = (_take(F.normalize(x.tokens, dim=-1), draw(x.mask.sum(dim=1))) for x in (text, video))
    return [(words, frames, 1 / len(text.mask))]


def best_matches(text: Tokens, video: Tokens, weights: tuple[Tensor, Tensor] | None, *, padding: bool) -> list[Match]:
    """Every word with its best frame, every frame with its best word; token `weights` of None are equal.

    For `padding` see `Recipe.padding_in_cdcr`.
    """
    words, frames = (F.normalize(x.tokens, dim=-1) for x in (text, video))
    outside = (text.mask.unsqueeze(2) * video.mask.unsqueeze(1)) == 0  # (B, N_t, N_v)
    cosine = (words @ frames.mT).masked_fill(outside, 0 if padding else -torch.inf)
    best = _take(frames, cosine.argmax(dim=2)), _take(words, cosine.argmax(dim=1))
    valid = text.mask.bool(), video.mask.bool()
    shares = [1 / rows.sum() for rows in valid]
    if weights is not None:
        shares = [weight[rows] / len(rows) for weight, rows in zip(weights, valid, strict=True)]
    sides = zip((words, frames), best, valid, shares, strict=True)
    return [(own[rows], match[rows], share) for own, match, rows, share in sides]


def draw(lengths: Tensor) -> Tensor:
    """Draw a position below each length (B,), the same on every process."""
    own = shard(lengths)
    return gather_shards(torch.randint(10000, own.shape, device=own.device)) % lengths


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens (B, N, D) at the positions `index`, (B) or (B, M): (B, D) or (B, M, D)."""
    return tokens[torch.arange(len(tokens), device=tokens.device).view(-1, *[1] * (index.dim() - 1)), index]
