"""Build loaders of clips and reference captions from the arguments of main_captioning.py."""

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders.base import Clip, ClipDataset, TextDataset, Tokenize
from dataloaders.build import build_augmentation, build_bad_videos, build_loader, clip_reader, find_split, read_split
from dataloaders.question_answering import QuestionVideoDataset
from utils.config import find_config
from utils.errors import InputError

CAPTIONED = ("msrvtt", "msvd", "vatex", "csv")
"""Data sets whose clips have several captions."""


@dataclass(frozen=True)
class CaptionLoaders:
    """A split: loader of this process's clips; names and references of all clips; counts used and left out."""

    clips: DataLoader
    names: list[str]
    references: list[list[str]]
    counts: dict[str, int]


class CaptionDataset(TextDataset):
    """The items of TextDataset with "labels", the token ids (N_t) to be generated."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        return item | {"labels": item["ids"]}


def check_captioned(datatype: str) -> None:
    """Raise an InputError if a data set has no captioning."""
    if datatype not in CAPTIONED:
        raise InputError(f"--datatype {datatype}: no data set of captioning; choose one of {', '.join(CAPTIONED)}")


def build_caption_loaders(args: argparse.Namespace, resolution: int, device: torch.device, name: str) -> CaptionLoaders:
    """Load the clips of "val" or "test" with all their captions; "val" is the test split where there is no other."""
    split, videos = find_split(args, name)
    clips = ClipDataset(split, videos, clip_reader(args, resolution))
    references: list[list[str]] = [[] for _ in split.clips]
    for caption, clip in zip(split.captions, split.clip_of_caption, strict=True):
        references[clip].append(caption)
    options: dict[str, Any] = {"batch_size": args.batch_size_val, "training": False, "device": device}
    names, counts = list(map(clip_name, split.clips)), split.counts("references")
    return CaptionLoaders(build_loader(args, clips, workers=args.workers, **options), names, references, counts)


def build_caption_training_loader(
    args: argparse.Namespace, tokenizer: Tokenize, resolution: int, device: torch.device
) -> DataLoader:
    """Load the training captions with their clips, --captions_per_clip of one clip together."""
    split, videos = find_split(args, "train")
    together = args.captions_per_clip
    if args.batch_size % together:
        raise InputError(f"--batch_size {args.batch_size}: choose a multiple of --captions_per_clip {together}")
    pairs = QuestionVideoDataset(
        split,
        CaptionDataset(split, tokenizer, args.max_words),
        ClipDataset(split, videos, clip_reader(args, resolution, build_augmentation(args))),
        build_bad_videos(args, len(videos)),
        together=together,
        seed=args.seed,
    )
    options = {"batch_size": args.batch_size // together, "workers": args.workers, "training": True, "device": device}
    return build_loader(args, pairs, collate=pairs.collate, **options)


def check_unseen(args: argparse.Namespace, clips: Collection[Clip], name: str) -> str | None:
    """Compare a split with the training videos of --init_model, by the config.json of its run; returns a warning.

    Raises:
        InputError: videos of the test split are among them, and --allow_seen_videos is not given.
    """
    config = find_config(args.init_model)
    if config is None or "anno_path" not in config.flags:
        return f"{args.init_model}: no config.json names its training videos"
    trained = argparse.Namespace(**config.flags)
    learnt = {clip.video_id for clip in read_split(trained, "train").clips}
    seen = sorted({clip.video_id for clip in clips} & learnt)
    if not seen:
        return None
    reason = f"{args.init_model}: was trained on {len(seen)} videos of the {name} split, first {seen[0]}"
    if name == "test" and not args.allow_seen_videos:
        raise InputError(f"{reason}; train it on the training videos of captioning, or give --allow_seen_videos")
    return reason


def clip_name(clip: Clip) -> str:
    """The video's id, with start and end if the clip is a part of it."""
    times = ["" if time is None else f"{time:g}" for time in (clip.start, clip.end)]
    return f"{clip.video_id}, {times[0]}-{times[1]} s" if any(times) else clip.video_id
