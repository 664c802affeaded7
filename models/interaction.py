"""Token-wise interaction: from two token sets to one similarity.

Dimension letters: A texts, B videos, N tokens, N_t words, N_v frames, D width.
Source: HBI, arXiv 2303.14369; weighted token-wise interaction of DRL, arXiv 2203.07111.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PADDED_SCORE = -9e15
BLOCK_MEMORY = 64 * 2**20  # bytes


class TokenWeight(nn.Sequential):
    """A score per token, whose softmax over the tokens is the token's weight."""

    def __init__(self, width: int):
        """Args: width: D."""
        super().__init__(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score (B, N, D) as (B, N); padding, where `mask` (B, N) is 0, gets a score whose weight is 0."""
        score = super().forward(tokens).squeeze(-1)
        return score if mask is None else score.float().masked_fill(mask == 0, PADDED_SCORE)


def token_similarity(text: Tensor, video: Tensor) -> Tensor:
    """Cosine of every word with every frame of every pair.

    Args:
        text: (A, N_t, D), of length 1 or, where padding, 0; see `unit`.
        video: (B, N_v, D), likewise.

    Returns:
        (A, B, N_t, N_v), in [-1, 1], 0 at padding.
    """
    return torch.einsum("atd,bvd->abtv", text, video)


def unit(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Scale tokens (B, N, D) to length 1, in float32, and padding to 0."""
    tokens = tokens.float()
    length = tokens.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return tokens / (length if mask is None else length.masked_fill(mask.unsqueeze(-1) == 0, torch.inf))


def similarity_in_blocks(text: Tensor, video: Tensor, text_weight: Tensor, video_weight: Tensor) -> Tensor:
    """`weighted_similarity` of all pairs, for training in bounded memory.

    Where the token similarities of all pairs take more than `BLOCK_MEMORY`, a block of texts after another is compared,
    and computed once more in the backward pass instead of kept.

    Args:
        text: (A, N_t, D), as `unit` gives it.
        video: (B, N_v, D), likewise.
        text_weight: (A, N_t), weight of each word's best frame.
        video_weight: (B, N_v), weight of each frame's best word.

    Returns:
        (A, B).
    """

    def compare(text: Tensor, text_weight: Tensor) -> Tensor:
        return weighted_similarity(token_similarity(text, video), text_weight, video_weight)

    texts = max(1, BLOCK_MEMORY // (4 * text.shape[1] * video.shape[0] * video.shape[1]))
    if not torch.is_grad_enabled() or texts >= len(text):
        return compare(text, text_weight)
    blocks = zip(text.split(texts), text_weight.split(texts), strict=True)
    options = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(compare, *block, **options) for block in blocks])


def weighted_similarity(token_sim: Tensor, text_weight: Tensor, video_weight: Tensor) -> Tensor:
    """Average of both directions' weighted best matches.

    Args:
        token_sim: (A, B, N_t, N_v).
        text_weight: (A, N_t), weight of each word's best frame.
        video_weight: (B, N_v), weight of each frame's best word.

    Returns:
        (A, B).
    """
    text_to_video = torch.einsum("abt,at->ab", token_sim.amax(dim=3), text_weight)
    video_to_text = torch.einsum("abv,bv->ab", token_sim.amax(dim=2), video_weight)
    return (text_to_video + video_to_text) / 2
