"""Questions about videos, in the form that all data sets of question answering are read to."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataloaders.annotations import field_of, load_json
from dataloaders.base import Clip, Split
from utils.errors import InputError

KINDS = ("what", "who", "how", "when", "where")


@dataclass(frozen=True)
class Question:
    """A question about a video.

    Attributes:
        question: in words.
        answer: the true one.
        video_id: the video it asks about.
        kind: what accuracy is reported by, such as one of `KINDS`.
    """

    question: str
    answer: str
    video_id: str
    kind: str


def kind_of(question: str) -> str:
    """The first of `KINDS` that is a word of the question, or "other"."""
    return next((word for word in re.findall("[a-z]+", question.lower()) if word in KINDS), "other")


def read_numbered(path: Path, video_id_of: Callable[[int, str], str]) -> list[Question]:
    """Read a JSON list of {question, answer, video_id as a whole number}.

    Args:
        path: the file.
        video_id_of: number and its place in the file, for messages, to the video's id.

    Raises:
        InputError: the file is missing or malformed.
    """
    questions = []
    for number, entry in enumerate(load_json(path, list)):
        place = f"{path}, [{number}]"
        question, answer = (field_of(entry, key, str, place) for key in ("question", "answer"))
        video_id = video_id_of(field_of(entry, "video_id", int, place), place)
        questions.append(Question(question, answer, video_id, kind_of(question)))
    return expect_some(questions, path)


def expect_some(questions: list[Question], path: Path) -> list[Question]:
    """Return the questions of a file.

    Raises:
        InputError: there are none.
    """
    if not questions:
        raise InputError(f"{path}: has no question; get the file again")
    return questions


def as_split(questions: Sequence[Question]) -> Split:
    """Questions as captions, each video once as a clip."""
    clips = {video_id: place for place, video_id in enumerate(dict.fromkeys(asked.video_id for asked in questions))}
    return Split(
        clips=[Clip(video_id) for video_id in clips],
        captions=[asked.question for asked in questions],
        clip_of_caption=[clips[asked.video_id] for asked in questions],
    )
