"""HBI for video question answering: the levels of retrieval, and one answer head each.

Dimension letters: A questions, B videos, N_t words, N_v frames, D width, C answers.
Source: Video-Text as Game Players, arXiv 2303.14369 (CVPR 2023), section 3.4, in the form of the released code.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import losses
from models.clip import CLIP
from models.hbi import HBI, full_precision, init_normal
from models.level import TokenSet
from utils.distributed import gather_features

DROPOUT = 0.1


class AnswerHead(nn.Module):
    """Classifies the answer from the words and frames of one level."""

    def __init__(self, width: int, answers: int, dropout: float = DROPOUT):
        """Build a head.

        Args:
            width: D.
            answers: C.
            dropout: probability, before the classifier.
        """
        super().__init__()
        self.text_weight, self.video_weight = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)) for _ in range(2)
        )
        self.text_project, self.video_project = (nn.Linear(width, 4 * width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(nn.Linear(8 * width, 16 * width), nn.ReLU(), nn.Linear(16 * width, answers))

    def forward(self, text: TokenSet, video: TokenSet) -> Tensor:
        """Logits of the answers (A, C) to questions about videos, one video a question."""
        question = self.text_project(pool(text, self.text_weight))  # (A, 4 D)
        scene = self.video_project(pool(video, self.video_weight))
        return self.classifier(self.dropout(torch.cat([scene, question], dim=-1)))


def pool(tokens: TokenSet, head: nn.Module) -> Tensor:
    """Sum tokens (A, N, D) by the softmax of their scores to (A, D).

    Padding is scored and weighed like any other token, but adds nothing to the sum, as in the released code.
    """
    weight = head(tokens.tokens).squeeze(-1).softmax(dim=-1) * tokens.valid()  # (A, N)
    return torch.einsum("an,and->ad", weight, tokens.tokens)


class HBIVQA(HBI):
    """Open-ended video question answering as classification over a vocabulary of answers."""

    def __init__(
        self,
        clip: CLIP,
        answers: Sequence[str],
        *,
        text_rates: tuple[float, float] = (0.25, 0.125),
        video_rates: tuple[float, float] = (0.25, 0.25),
        rates: Sequence[float] = (0.4, 0.4, 0.2),
        dropout: float = DROPOUT,
        **options,
    ):
        """Build the model on CLIP's towers; weights outside CLIP start at random.

        Args:
            clip: the towers.
            answers: the C answers, in the order of their labels.
            text_rates: clusters per word of the merges into the action and the event level.
            video_rates: clusters per frame of these merges.
            rates: weight of each level's logits in an answer.
            dropout: probability, before the classifiers.
            **options: of `HBI`.
        """
        super().__init__(clip, text_rates=text_rates, video_rates=video_rates, rates=rates, **options)
        self.answers = tuple(answers)
        width = clip.config.embed_dim
        self.answer_heads = nn.ModuleList(AnswerHead(width, len(self.answers), dropout) for _ in self.levels)
        for modules in (self.levels, self.answer_heads):
            modules.apply(init_normal)
        for head in self.answer_heads[self.trained_levels :]:
            head.requires_grad_(False)

    def forward(
        self,
        ids: Tensor,
        text_mask: Tensor,
        frames: Tensor,
        video_mask: Tensor,
        video_ids: Tensor,
        video_of_question: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """Loss terms of a batch of questions, gathered over all processes.

        Args:
            ids: int64 (A, N_t), the questions.
            text_mask: (A, N_t).
            frames: of B videos, each once; see `frame_tokens`.
            video_mask: (B, N_v).
            video_ids: int64 (B,), equal for equal videos in different batches.
            video_of_question: int64 (A,), which of the B videos each question asks about.
            labels: int64 (A,), the true answers.

        Returns:
            Every term by name, and their weighted sum "loss".
        """
        text, video = self.text_tokens(ids, text_mask), self.frame_tokens(frames, video_mask)
        asked = (x.index_select(0, video_of_question) for x in (video, video_mask, video_ids))
        text, text_mask, labels, video, video_mask, video_ids = (
            gather_features(x, exact=self.recipe.exact_gather) for x in (text, text_mask, labels, *asked)
        )
        return self.question_loss(text, text_mask, video, video_mask, video_ids, labels)

    @full_precision
    def question_loss(
        self, text: Tensor, text_mask: Tensor, video: Tensor, video_mask: Tensor, video_ids: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Loss terms of questions with their videos.

        The released code masks no padding in the Banzhaf alignment of questions; where the recipe keeps padding out of
        the softmax it is kept out here too.

        Args:
            text: (A, N_t, D).
            text_mask: (A, N_t).
            video: (A, N_v, D), the video of each question.
            video_mask: (A, N_v).
            video_ids: int64 (A,).
            labels: int64 (A,).

        Returns:
            As `forward`.
        """
        outputs, logits = [], {}
        for (level, *sets), head in zip(
            self.ascend(text, text_mask, video, video_mask, self.trained_levels), self.answer_heads, strict=False
        ):
            outputs.append(level(*sets))
            logits[level.name] = head(*sets)
        masks = (None, None) if self.recipe.masked_logits_in_kl else (text_mask, video_mask)
        terms, aligned = self.level_terms(outputs, *masks, video_ids)
        answered = {f"{name}.answer_ce": F.cross_entropy(logit, labels) for name, logit in logits.items()}
        between = losses.answer_distillation(logits)
        total = aligned / 2 + sum(answered.values()) + self.kl * sum(between.values())
        return terms | answered | between | {"loss": total}

    @full_precision
    def answer_logits(
        self, text: tuple[Tensor, Tensor], video: tuple[Tensor, Tensor], levels: int | None = None
    ) -> dict[str, Tensor]:
        """Logits of the answers at each level.

        Args:
            text: tokens (A, N_t, D) and mask (A, N_t) of questions, as `encode_text` gives them.
            video: tokens (A, N_v, D) and mask (A, N_v) of the video of each question.
            levels: how many, from entity upwards; None for all.

        Returns:
            Level name -> (A, C).
        """
        ascent = self.ascend(*text, *video, levels=len(self.levels) if levels is None else levels)
        return {level.name: head(*sets) for (level, *sets), head in zip(ascent, self.answer_heads, strict=False)}

    def mixed_logits(self, text: tuple[Tensor, Tensor], video: tuple[Tensor, Tensor]) -> Tensor:
        """Logits of the answers (A, C), levels mixed by `rates`; arguments as for `answer_logits`."""
        logits = self.answer_logits(text, video, self.used_levels).values()
        return sum(rate * logit for rate, logit in zip(self.rates, logits, strict=False))

    @torch.no_grad()
    def answer(
        self,
        question: str,
        video: str | Path,
        *,
        top: int = 5,
        max_words: int = 32,
        **sampling,
    ) -> list[tuple[str, float]]:
        """Answer one question about one video file.

        Args:
            question: in words.
            video: the file.
            top: how many answers.
            max_words: N_t.
            **sampling: of `encode_video`.

        Returns:
            The `top` most probable answers with their probabilities, the best first.

        Raises:
            InputError: the file is missing or cannot be decoded.
        """
        text = self.encode_text([question], max_words)
        logits = self.mixed_logits(text, self.encode_video([video], **sampling))
        probability, label = logits.squeeze(0).softmax(dim=-1).topk(min(top, len(self.answers)))
        return [(self.answers[place], share) for place, share in zip(label.tolist(), probability.tolist(), strict=True)]
