"""The answer vocabulary of question answering, and the accuracy of answers.

Dimension letters: A questions.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from utils.errors import InputError
from utils.files import atomic_write
from utils.texts import read_json

_DEPTHS = (1, 5)


def read_answers(path: str | Path) -> list[str]:
    """Read an answer vocabulary, JSON as MSRVTT-QA's train_ans2label.json: answer -> label.

    Returns:
        The answers in the order of their labels.

    Raises:
        InputError: the file is missing, no JSON, or its labels are not 0, 1, ... in any order.
    """
    labels = read_json(path)
    if not isinstance(labels, dict) or not labels:
        raise InputError(f"{path}: holds no map of answers to labels; give a file such as train_ans2label.json")
    if any(type(label) is not int for label in labels.values()) or sorted(labels.values()) != list(range(len(labels))):
        raise InputError(f"{path}: its labels are not the numbers 0 to {len(labels) - 1}, each once; fix the file")
    return sorted(labels, key=labels.__getitem__)


def write_answers(path: str | Path, answers: Sequence[str]) -> None:
    """Write an answer vocabulary for `read_answers`; a failure is an InputError."""
    with atomic_write(path) as file:
        json.dump({answer: label for label, answer in enumerate(answers)}, file)


def frequent_answers(answers: Sequence[str], min_count: int) -> list[str]:
    """The answers that occur `min_count` times or more, the most frequent first, ties in alphabetical order."""
    counts = Counter(answers)
    chosen = (answer for answer, count in counts.items() if count >= min_count)
    return sorted(chosen, key=lambda answer: (-counts[answer], answer))


def answer_metrics(ranks: Tensor, truths: Sequence[str], kinds: Sequence[str], known: Sequence[str]) -> dict[str, dict]:
    """Accuracy over all questions and over each kind.

    Args:
        ranks: (A,) int64, wrong answers that score at least as high as the true one; ignored where that is unknown.
        truths: A true answers.
        kinds: A kinds of question.
        known: the answer vocabulary.

    Returns:
        "total" and each kind, the most frequent first -> "all" and "answerable" (questions with known answers, if any)
        -> number of "questions", and in percent "top1", "top5" and "majority" (always the most frequent answer).
    """
    vocabulary = set(known)
    rows = [(rank, truth, truth in vocabulary) for rank, truth in zip(ranks.tolist(), truths, strict=True)]
    groups: dict[str, list] = {"total": rows}
    for kind, _ in Counter(kinds).most_common():
        groups[kind] = [row for row, own in zip(rows, kinds, strict=True) if own == kind]
    return {
        name: {
            scope: _accuracy(chosen)
            for scope, chosen in (("all", group), ("answerable", [row for row in group if row[2]]))
            if chosen
        }
        for name, group in groups.items()
    }


def _accuracy(rows: Sequence[tuple[int, str, bool]]) -> dict[str, float]:
    """Figures of one group of (rank, truth, whether it is known)."""
    share = 100 / len(rows)
    majority = max(Counter(truth for _, truth, _ in rows).values())
    return {
        "questions": len(rows),
        **{f"top{depth}": share * sum(known and rank < depth for rank, _, known in rows) for depth in _DEPTHS},
        "majority": share * majority,
    }
