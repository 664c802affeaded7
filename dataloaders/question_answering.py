"""Build loaders of questions and their videos from the arguments of main_vqa.py.

A questions, B videos, N_t words, N_v frames.
"""

import argparse
import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders import find_dataset
from dataloaders.bad_videos import BadVideos
from dataloaders.base import Clip, ClipDataset, PairDataset, Question, Split, TextDataset, Tokenize, collate
from dataloaders.build import build_augmentation, build_bad_videos, build_loader, clip_reader, find_files
from utils.answers import frequent_answers
from utils.errors import InputError

UNKNOWN = -1


def as_split(questions: Sequence[Question]) -> Split:
    """Make a split with questions as captions, and each video once as a clip."""
    video_ids = dict.fromkeys(question.video_id for question in questions)
    clips = {video_id: place for place, video_id in enumerate(video_ids)}
    return Split(
        clips=[Clip(video_id) for video_id in clips],
        captions=[question.question for question in questions],
        clip_of_caption=[clips[question.video_id] for question in questions],
    )


class QuestionDataset(TextDataset):
    """Every question once: {"ids", "text_mask": (N_t), "labels", "video_of_text": index of its clip}.

    The label is the answer's index in the vocabulary `answers`, or `UNKNOWN`.
    """

    def __init__(self, questions: Sequence[Question], answers: Sequence[str], tokenizer: Tokenize, max_words: int):
        self.split = as_split(questions)
        super().__init__(self.split, tokenizer, max_words)
        label_of = {answer: label for label, answer in enumerate(answers)}
        self.labels = [label_of.get(question.answer, UNKNOWN) for question in questions]

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = {"labels": self.labels[index], "video_of_text": self.split.clip_of_caption[index]}
        return {**super().__getitem__(index), **place}


class QuestionVideoDataset(PairDataset):
    """Questions with their clips, for training; a batch decodes each clip once.

    The arguments are PairDataset's, and

    Args:
        together: questions in an item: those of a clip, in random order, are cut into rows of that length, and the rest
            is dropped.
        seed: of that order.
    """

    def __init__(
        self,
        split: Split,
        texts: TextDataset,
        clips: ClipDataset,
        bad_videos: BadVideos | None = None,
        *,
        together: int = 1,
        seed: int = 0,
    ):
        super().__init__(split, texts, clips, bad_videos)
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
        order = order[torch.tensor(split.clip_of_caption)[order].argsort(stable=True)]
        self.rows = order[: len(order) // together * together].view(-1, together).tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items of a batch, one for each question."""
        batch = copy(self)
        batch.clips = _OnceDecoded(self.clips)
        return [batch[question] for index in indices for question in self.rows[index]]

    def name(self, index: int) -> str:
        """The names of an item's questions in messages."""
        return ", ".join(super(QuestionVideoDataset, self).name(question) for question in self.rows[index])

    @staticmethod
    def collate(items: Sequence[dict[str, Any]], max_frames: int) -> dict[str, Tensor]:
        """Stack A questions, and the frames of each of their B clips once, as `dataloaders.base.collate` does.

        Returns:
            "ids", "text_mask" (A, N_t), "labels" (A,), "frames", "video_mask" (B, N_v), "video_ids" (B,), and
            "video_of_text" (A,): which of the clips.
        """
        clips = {item["video_id"]: {name: item[name] for name in ("frames", "video_id")} for item in items}
        place = {video_id: number for number, video_id in enumerate(clips)}
        questions = [{name: item[name] for name in ("ids", "text_mask", "labels")} for item in items]
        return {
            **collate(questions, max_frames),
            **collate(list(clips.values()), max_frames),
            "video_of_text": torch.tensor([place[item["video_id"]] for item in items]),
        }


class _OnceDecoded:
    """The clips of a ClipDataset, cached."""

    def __init__(self, clips: ClipDataset):
        self.clips = clips.clips
        self.give = cache(clips.__getitem__)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.give(index)


@dataclass(frozen=True)
class QuestionLoaders:
    """Every question of a split, loaders of this process's questions and clips, counts used and left out."""

    all_questions: list[Question]
    questions: DataLoader
    clips: DataLoader
    counts: dict[str, int]


def read_questions(datatype: str, path: str) -> list[Question]:
    """Read a data set's file of questions."""
    read = find_dataset(datatype, with_questions=True).read_questions
    assert read is not None
    return read(Path(path))


def build_vocabulary(args: argparse.Namespace) -> list[str]:
    """Make a vocabulary of the training answers, the most frequent first."""
    answers = [question.answer for question in read_questions(args.datatype, args.train_csv)]
    return frequent_answers(answers, find_dataset(args.datatype).min_answers)


def build_evaluation_loaders(
    args: argparse.Namespace, answers: Sequence[str], tokenizer: Tokenize, resolution: int, device: torch.device
) -> QuestionLoaders:
    """Build loaders of the evaluation questions; `answers` is the vocabulary, in the order of the labels."""
    all_questions, files, counts = find_questions(args, "test", args.val_csv)
    questions = QuestionDataset(all_questions, answers, tokenizer, args.max_words)
    clips = ClipDataset(questions.split, files, clip_reader(args, resolution))
    options: dict[str, Any] = {"batch_size": args.batch_size_val, "training": False, "device": device}
    return QuestionLoaders(
        all_questions,
        build_loader(args, questions, workers=0, **options),
        build_loader(args, clips, workers=args.workers, **options),
        counts,
    )


def build_training_loader(
    args: argparse.Namespace,
    answers: Sequence[str],
    tokenizer: Tokenize,
    resolution: int,
    device: torch.device,
    logger: logging.Logger,
) -> DataLoader:
    """Build the loader of the training questions whose answer is in the vocabulary; the log counts the others."""
    all_questions, files, _ = find_questions(args, "train", args.train_csv)
    vocabulary = set(answers)
    known = [question for question in all_questions if question.answer in vocabulary]
    if not known:
        raise InputError(f"{args.train_csv}: no answer is in {args.data_path}; give the vocabulary that belongs to it")
    if len(known) < len(all_questions):
        lost = len(all_questions) - len(known)
        reason = "their answer is not in the vocabulary"
        logger.warning("%s: %d of %d questions are left out, %s", args.train_csv, lost, len(all_questions), reason)
    questions = QuestionDataset(known, answers, tokenizer, args.max_words)
    clips = ClipDataset(questions.split, files, clip_reader(args, resolution, build_augmentation(args)))
    together = args.questions_per_clip
    if args.batch_size % together:
        raise InputError(f"--batch_size {args.batch_size}: choose a multiple of --questions_per_clip {together}")
    bad_videos = build_bad_videos(args, len(files))
    dataset = QuestionVideoDataset(questions.split, questions, clips, bad_videos, together=together, seed=args.seed)
    options = {"batch_size": args.batch_size // together, "workers": args.workers, "training": True, "device": device}
    return build_loader(args, dataset, collate=dataset.collate, **options)


def find_questions(
    args: argparse.Namespace, name: str, path: str
) -> tuple[list[Question], dict[str, Path], dict[str, int]]:
    """Read and count a split's questions and their videos; with --skip_missing_videos those without are left out."""
    questions = read_questions(args.datatype, path)
    split = as_split(questions)
    files = find_files(args, name, split.clips)
    counts = split.keep_videos(files).counts("questions")
    return [question for question in questions if question.video_id in files], files, counts
