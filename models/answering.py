"""What methods that answer questions about videos have in common.

A questions, N tokens, D width, C answers.
"""

import argparse
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.clip import CLIP
from models.encoder import TokensLike
from models.interaction import PADDED_SCORE
from models.level import TokenSet
from models.method import RetrievalMethod
from utils.errors import InputError


class AnswerHead(nn.Module):
    """Classifies the answer from pooled words and frames; HBI has one head for each level."""

    def __init__(self, width: int, answers: int, dropout: float):
        super().__init__()
        self.text_weight, self.video_weight = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)) for _ in range(2)
        )
        self.text_project, self.video_project = (nn.Linear(width, 4 * width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(nn.Linear(8 * width, 16 * width), nn.ReLU(), nn.Linear(16 * width, answers))

    def forward(self, text: TokenSet, video: TokenSet) -> Float[Tensor, "A C"]:
        """Logits of the answers to questions about videos, one video a question."""
        return self.classify(*self.project(text, video))

    def project(
        self, text: TokenSet, video: TokenSet, *, padding: bool = True
    ) -> tuple[Float[Tensor, "A D4"], Float[Tensor, "A D4"]]:
        """Pooled videos and questions; `padding` as for `pool`."""
        question = self.text_project(pool(text, self.text_weight, padding=padding))
        return self.video_project(pool(video, self.video_weight, padding=padding)), question

    def classify(self, scene: Float[Tensor, "A D4"], question: Float[Tensor, "A D4"]) -> Float[Tensor, "A C"]:
        """Logits of what `project` returns."""
        return self.classifier(self.dropout(torch.cat([scene, question], dim=-1)))


def pool(tokens: TokenSet, head: nn.Module, *, padding: bool = True) -> Float[Tensor, "A D"]:
    """Sum tokens by the softmax of their scores.

    With `padding`, padding takes part in the softmax but not in the sum, as in the released code.
    """
    score, valid = head(tokens.tokens).squeeze(-1), tokens.valid()  # (A, N)
    if not padding:
        score = score.masked_fill(valid == 0, PADDED_SCORE)
    return torch.einsum("an,and->ad", score.softmax(dim=-1) * valid, tokens.tokens)


def add_freeze_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the layers of CLIP that are not trained."""
    group = parser.add_argument_group("freezing")
    group.add_argument("--freeze_layer_num", type=int, default=0,
                       help="lowest blocks of CLIP's towers that are frozen, with the embeddings; -1 trains all")


class AnswerMethod(RetrievalMethod):
    """A method that chooses one of its `answers`."""

    def __init__(self, clip: CLIP, answers: Sequence[str], **options: Any):
        """Args: answers: in the order of their labels; options: of the method."""
        self.answers = tuple(answers)
        super().__init__(clip, **options)

    @abstractmethod
    def mixed_logits(self, text: TokensLike, video: TokensLike) -> Float[Tensor, "A C"]:
        """Logits of the answers to questions, question i about video i."""

    @torch.no_grad()
    def answer(
        self, question: str, video: str | Path, *, top: int = 5, max_words: int = 32, **sampling: Any
    ) -> list[tuple[str, float]]:
        """Answer one question about one video file: the `top` most probable answers with their probabilities.

        `sampling` are options of `encode_video`; an unreadable file is an InputError.
        """
        if not question.strip():
            raise InputError("the question is empty: ask something about the video")
        text = self.encode_text([question], max_words)
        logits = self.mixed_logits(text, self.encode_video([video], **sampling))
        probability, label = logits.squeeze(0).softmax(dim=-1).topk(min(top, len(self.answers)))
        return [(self.answers[place], share) for place, share in zip(label.tolist(), probability.tolist(), strict=True)]
