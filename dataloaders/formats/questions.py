"""The format of questions that MSRVTT-QA and MSVD-QA share."""

import re
from collections.abc import Callable
from pathlib import Path

from dataloaders.base import Question
from dataloaders.formats.schema import Entry, Text, Whole, not_empty, read_json

KINDS = ("what", "who", "how", "when", "where")


class NumberedQuestion(Entry):
    """A question about a video with a number."""

    question: Text
    answer: Text
    video_id: Whole


def kind_of(question: str) -> str:
    """The first of `KINDS` that is a word of the question, or "other"."""
    return next((word for word in re.findall("[a-z]+", question.lower()) if word in KINDS), "other")


def read_numbered(path: Path, video_id_of: Callable[[int, str], str]) -> list[Question]:
    """Read a JSON list of questions; `video_id_of` maps a number, and its place for messages, to a video's id."""
    questions = [
        Question(row.question, row.answer, video_id_of(row.video_id, f"{path}, [{place}]"), kind_of(row.question))
        for place, row in enumerate(read_json(path, list[NumberedQuestion]))
    ]
    return not_empty(questions, path, "has no question")
