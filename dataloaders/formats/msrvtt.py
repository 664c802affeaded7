"""MSR-VTT (CVPR 2016): 10,000 videos with 20 captions each; MSRVTT-QA (ACM MM 2017): 243,690 questions about them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dataloaders.base import Clip, Question, Split
from dataloaders.formats.questions import kind_of, read_numbered
from dataloaders.formats.schema import Entry, Text, captions_of, group, read_ids, read_json, read_rows
from utils.errors import InputError

FULL_SPLIT = {"train": range(6513), "val": range(6513, 7010), "test": range(7010, 10_000)}
"""The official split, by the numbers of the videos."""
DATA = "MSRVTT_data.json"


class Sentence(Entry):
    """A caption."""

    video_id: Text
    caption: Text


class Sentences(Entry):
    """All captions."""

    sentences: list[Sentence]


class Listed(Entry):
    """A row of a list of videos."""

    video_id: Text


class TestPair(Listed):
    """A row of the test list of 1k-A, with an optional subset."""

    sentence: Text
    subset: str = ""


class TypedQuestion(Entry):
    """A line of MSRVTT-QA."""

    question: Text
    answer: Text
    video_id: Text
    answer_type: Any = None


def read_msrvtt(anno_path: Path, split: str, msrvtt_split: str = "9k") -> Split:
    """Read MSRVTT_data.json and the lists of a split.

    `msrvtt_split` is "9k" or "7k" for 1k-A with that many training videos, "full" for the official split, or "1kB".
    Lists are MSRVTT_train.9k.csv or .7k.csv and MSRVTT_JSFUSION_test.csv for 1k-A, train_list_miech.txt and
    test_list_miech.txt (an id per line) for 1k-B.

    Returns:
        All captions of the listed videos; for the test of 1k-A the caption in the list, of 1k-B the first one.
    """
    if msrvtt_split == "full":
        return _read_full(anno_path / DATA, split)
    if msrvtt_split == "1kB":
        ids = read_ids(anno_path / f"{split}_list_miech.txt")
        return _read_videos(anno_path / DATA, ids, max_captions=None if split == "train" else 1)
    if split == "test":
        return _read_test_pairs(anno_path / "MSRVTT_JSFUSION_test.csv")
    rows = read_rows(anno_path / f"MSRVTT_train.{msrvtt_split}.csv", Listed)
    return _read_videos(anno_path / DATA, (row.video_id for row in rows))


def _read_captions(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for sentence in read_json(path, Sentences).sentences:
        captions.setdefault(sentence.video_id, []).append(sentence.caption)
    return captions


def _read_videos(path: Path, ids: Iterable[str], max_captions: int | None = None) -> Split:
    captions = captions_of(_read_captions(path), dict.fromkeys(ids), path)
    return group({video_id: of_video[:max_captions] for video_id, of_video in captions.items()})


def _read_full(path: Path, split: str) -> Split:
    names = {f"video{number}" for number in FULL_SPLIT[split]}
    captions = {video_id: texts for video_id, texts in _read_captions(path).items() if video_id in names}
    if not captions:
        first, last = FULL_SPLIT[split][0], FULL_SPLIT[split][-1]
        wanted = f"none of video{first} to video{last}, the {split} videos"
        raise InputError(f"{path}: has {wanted}; choose another --msrvtt_split")
    return group(captions)


def _read_test_pairs(path: Path) -> Split:
    rows = read_rows(path, TestPair)
    clips = {video_id: index for index, video_id in enumerate(dict.fromkeys(row.video_id for row in rows))}
    subsets: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.subset:
            subsets.setdefault(row.subset, []).append(index)
    clip_of_caption = [clips[row.video_id] for row in rows]
    return Split([Clip(video_id) for video_id in clips], [row.sentence for row in rows], clip_of_caption, subsets)


def read_msrvtt_qa(path: Path) -> list[Question]:
    """Read {split}.jsonl, a `TypedQuestion` per line, or the older {split}_qa.json with numbers N of "videoN"."""
    if path.suffix == ".json":
        return read_numbered(path, lambda number, _: f"video{number}")
    return [
        Question(row.question, row.answer, row.video_id, str(row.answer_type or kind_of(row.question)))
        for row in read_rows(path, TypedQuestion)
    ]
