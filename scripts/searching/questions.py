"""Questions about one video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models import AnswerMethod, load_model
from utils.errors import InputError

ANSWERS = "train_ans2label.json"


@dataclass(frozen=True)
class Answer:
    """One answer and its probability."""

    answer: str
    probability: float


def load_question_model(device: str | torch.device, answers: str | None = None, **options: Any) -> AnswerMethod:
    """Load a model that answers questions.

    Args:
        device: where the model goes.
        answers: file of its answers; None: the one that training wrote next to the checkpoint.
        **options: keywords of `models.load_model`.

    Raises:
        InputError: a file cannot be read, or the model has no answer heads.
    """
    answers = answers or _answers_next_to(options["checkpoint"])
    model = load_model(**options, answers=answers, device=device)
    if not isinstance(model, AnswerMethod):
        raise InputError(f"{options['checkpoint']}: answers no questions; give a checkpoint that main_vqa.py wrote")
    return model


def _answers_next_to(checkpoint: str) -> Path | None:
    """The file of answers next to a checkpoint, if there is one."""
    path = Path(checkpoint).parent / ANSWERS
    return path if path.is_file() else None
