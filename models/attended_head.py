"""An answer head with cross-attention from the words of the question to the frames.

Dimension letters: A questions, N_t words, N_v frames, D width, C answers.
"""

import torch
from torch import Tensor, nn

from models.answering import AnswerHead, pool
from models.level import TokenSet

HEADS = 8


class AttendedHead(nn.Module):
    """Classifies the answer from the words of a level and what each of them attends to among the frames."""

    def __init__(self, width: int, answers: int, dropout: float):
        """Args: width: D, a multiple of 8; answers: C; dropout: probability, before the classifier."""
        super().__init__()
        self.text_norm, self.video_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.fuse = nn.Sequential(nn.Linear(3 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 4 * width))
        self.score = nn.Sequential(nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, 1))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(nn.Linear(4 * width, 16 * width), nn.ReLU(), nn.Linear(16 * width, answers))

    def forward(self, text: TokenSet, video: TokenSet) -> Tensor:
        """Logits of the answers (A, C) to questions about videos, one video a question; padding is left out."""
        words, frames = self.text_norm(text.tokens), self.video_norm(video.tokens)
        padding = video.valid() == 0
        read = self.attention(words, frames, frames, key_padding_mask=padding, need_weights=False)[0]  # (A, N_t, D)
        fused = self.fuse(torch.cat([words, read, words * read], dim=-1))  # (A, N_t, 4 D)
        question = TokenSet(fused, text.mask, text.lengths, text.clusters)
        return self.classifier(self.dropout(pool(question, self.score, padding=False)))


ANSWER_HEADS: dict[str, type[nn.Module]] = {"pooled": AnswerHead, "attended": AttendedHead}
"""Heads of HBI's levels by their names on the command line; the first one is the released one."""
