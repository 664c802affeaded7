"""ActivityNet Captions (ICCV 2017), paragraph to video, and ActivityNet-QA (AAAI 2019), 58,000 questions."""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from dataloaders.base import Clip, Question, Split
from dataloaders.formats.schema import Entry, Number, Text, Whole, check, not_empty, read_json, typed
from utils.errors import InputError

KINDS = (
    *("motion", "spatial relation", "temporal relation", "yes or no", "colour"),
    *("object", "location", "number", "other"),
)
"""Meaning of the numbers of `type`."""


def _duration(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"lasts {seconds} s")
    return seconds


def _paragraph(sentences: Any) -> str:
    if not all(isinstance(sentence, str) for sentence in typed(sentences, list)):
        raise ValueError("expected strings")
    return " ".join(sentences)


def _kind(number: int) -> str:
    if number not in range(len(KINDS)):
        raise ValueError(f"is {number}, not 0 to {len(KINDS) - 1}")
    return KINDS[number]


class Video(Entry):
    """A video that several sentences describe."""

    duration: Annotated[Number, AfterValidator(_duration)]
    sentences: Annotated[Text, BeforeValidator(_paragraph)]


class ActivityQuestion(Entry):
    """A question."""

    question: Text
    video_name: Text
    question_id: Text


class Answer(Entry):
    """The answer to a question, and the question's kind."""

    question_id: Text
    answer: Text
    type: Annotated[Whole, AfterValidator(_kind)]


def read_activity(anno_path: Path, split: str) -> Split:
    """Read train_ids.json and train.json, or val_ids.json and val_1.json: ids "v_..." and id -> {duration, sentences}.

    Clips last from 0 to the duration, rounded up. The test split is the first validation set, as published.
    """
    names = ("train_ids.json", "train.json") if split == "train" else ("val_ids.json", "val_1.json")
    list_path, path = (anno_path / name for name in names)
    videos, clips, captions = read_json(path, dict), [], []
    for video_id in not_empty(read_json(list_path, list[Text]), list_path, "lists no video"):
        if video_id not in videos:
            raise InputError(f"{path}: has no key {video_id!r}; fix the entry")
        video = check(Video, videos[video_id], f"{path}, {video_id!r}")
        clips.append(Clip(video_id, 0, math.ceil(video.duration)))
        captions.append(video.sentences)
    return Split(clips, captions, list(range(len(clips))))


def read_activity_qa(path: Path) -> list[Question]:
    """Read {split}_q.json, a list of questions, and next to it {split}_a.json, their answers."""
    if not path.name.endswith("_q.json"):
        raise InputError(f"{path}: is no file of questions by its name; give {{split}}_q.json")
    answer_path = path.with_name(path.name.removesuffix("_q.json") + "_a.json")
    answers = {answer.question_id: answer for answer in read_json(answer_path, list[Answer])}
    questions = []
    for number, question in enumerate(read_json(path, list[ActivityQuestion])):
        if question.question_id not in answers:
            reason = f"question {question.question_id!r} has no answer in {answer_path}"
            raise InputError(f"{path}, [{number}]: {reason}; fix either")
        answer = answers[question.question_id]
        questions.append(Question(question.question, answer.answer, question.video_name, answer.type))
    return not_empty(questions, path, "has no question")
