"""Tokens mixed with a context that the other modality pools from their own modality. An experiment.

After the description in HBI's journal version, arXiv 2412.20964; no formula is public, this one is this project's.

Dimension letters: A texts, B videos or pairs, N tokens, N_t words, N_v frames, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SCOPES = ("none", "game", "score")
"""Not at all; in the Banzhaf game of the true pairs alone; also in the similarities of all pairs."""
TEMPERATURE = 0.07
START = 0.1
"""Initial value of a learned share."""


class Reconstruction(nn.Module):
    """v' = (1 - s) v + s c, with c the mean of the video's frames that the text attends to; words in the same way.

    Tokens have length 1, and padding length 0, as `models.interaction.unit` makes them.
    """

    def __init__(self, share: float | None):
        """Args: share: s, fixed; None: learned, one for words and one for frames."""
        super().__init__()
        # Called bias so that weight decay leaves it out; the shares are the sigmoids.
        self.bias = nn.Parameter(torch.full((2,), math.log(START / (1 - START)))) if share is None else None
        self.share = share

    @classmethod
    def build(cls, scope: str, share: float) -> "Reconstruction | None":
        """Build for one of `SCOPES`; for "score" the share is learned."""
        if scope == "score":
            return cls(None)
        return cls(share) if scope == "game" and share else None

    @property
    def in_scores(self) -> bool:
        """Whether similarities, too, use reconstructed tokens."""
        return self.bias is not None

    def shares(self) -> tuple[Tensor | float, Tensor | float]:
        """The shares of words and of frames."""
        if self.bias is None:
            assert self.share is not None
            return self.share, self.share
        words, frames = self.bias.sigmoid().unbind()
        return words, frames

    def pairs(self, text: Tensor, video: Tensor, text_weight: Tensor, video_weight: Tensor) -> Tensor:
        """Cosines (B, N_t, N_v) of true pairs, reconstructed from tokens (B, N, D) and pooling weights (B, N)."""
        alpha, beta = self.shares()
        text_query, video_query = pooled(text, text_weight), pooled(video, video_weight)
        return reconstructed(text, video_query, alpha) @ reconstructed(video, text_query, beta).mT

    def all_pairs(self, text: Tensor, video: Tensor, text_weight: Tensor, video_weight: Tensor) -> Tensor:
        """Cosines (A, B, N_t, N_v) of all pairs, without storing the reconstructed tokens of each."""
        alpha, beta = self.shares()
        sim = torch.einsum("atd,bvd->abtv", text, video)
        # Attention of each text over frames p (A, B, N_v), of each video over words q (A, B, N_t).
        frames = attention(torch.einsum("ad,bvd->abv", pooled(text, text_weight), video), valid(video))
        words = attention(torch.einsum("bd,atd->abt", pooled(video, video_weight), text), valid(text).unsqueeze(1))
        to_words, to_frames = torch.einsum("abtv,abv->abt", sim, frames), torch.einsum("abtv,abt->abv", sim, words)
        between = (to_words * words).sum(dim=-1)
        product = (1 - alpha) * (1 - beta) * sim + (1 - alpha) * beta * to_words.unsqueeze(-1)
        product = product + alpha * ((1 - beta) * to_frames + beta * between.unsqueeze(-1)).unsqueeze(-2)
        among_words = torch.einsum("atu,abu->abt", text @ text.mT, words)
        among_frames = torch.einsum("bvw,abw->abv", video @ video.mT, frames)
        text_square = squared_length(valid(text).unsqueeze(1), among_words, words, alpha)
        video_square = squared_length(valid(video), among_frames, frames, beta)
        length = (text_square.unsqueeze(-1) * video_square.unsqueeze(-2)).clamp(min=1e-12).sqrt()
        return product / length * both_valid(text, video)

    def similarity(self, tokens: list[Tensor], *, padding_in_maxima: bool, memory: int) -> Tensor:
        """Weighted best matches (A, B) in blocks of `memory` bytes; `tokens` are the arguments of `all_pairs`."""
        text, video, text_weight, video_weight = tokens

        def compare(text: Tensor, text_weight: Tensor) -> Tensor:
            sim = self.all_pairs(text, video, text_weight, video_weight)
            if not padding_in_maxima:
                sim = sim.masked_fill(both_valid(text, video) == 0, -2)  # below all cosines
            best_frame, best_word = sim.amax(dim=3), sim.amax(dim=2)
            return ((best_frame * text_weight.unsqueeze(1)).sum(-1) + (best_word * video_weight).sum(-1)) / 2

        texts = max(1, memory // (16 * text.shape[1] * video.shape[0] * video.shape[1]))
        blocks = zip(text.split(texts), text_weight.split(texts), strict=True)
        return torch.cat([checkpoint(compare, *block, use_reentrant=False) for block in blocks])


def valid(tokens: Tensor) -> Tensor:
    """1 for tokens of (B, N, D), 0 for padding: (B, N)."""
    return tokens.detach().any(dim=-1).float()


def both_valid(text: Tensor, video: Tensor) -> Tensor:
    """1 where a valid word meets a valid frame: (A, B, N_t, N_v)."""
    return torch.einsum("at,bv->abtv", valid(text), valid(video))


def pooled(tokens: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of tokens (B, N, D), of length 1: (B, D)."""
    return F.normalize(torch.einsum("bnd,bn->bd", tokens, weight), dim=-1)


def attention(cosines: Tensor, valid: Tensor) -> Tensor:
    """Softmax over the last axis, without padding."""
    return (cosines / TEMPERATURE).masked_fill(valid == 0, -torch.inf).softmax(dim=-1)


def reconstructed(tokens: Tensor, query: Tensor, share: Tensor | float) -> Tensor:
    """Mix tokens (B, N, D) with a share of their mean attended to by the other side's query (B, D); length 1."""
    weight = attention(torch.einsum("bnd,bd->bn", tokens, query), valid(tokens))
    context = torch.einsum("bn,bnd->bd", weight, tokens).unsqueeze(1)
    return F.normalize((1 - share) * tokens + share * context, dim=-1) * valid(tokens).unsqueeze(-1)


def squared_length(own: Tensor, among: Tensor, weight: Tensor, share: Tensor | float) -> Tensor:
    """Squared lengths of reconstructed tokens (A, B, N), from their own and their products `among` with the context."""
    context = (among * weight).sum(dim=-1, keepdim=True)
    return (1 - share) ** 2 * own + 2 * share * (1 - share) * among + share**2 * context
