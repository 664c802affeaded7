"""Build loaders from the arguments of an entry script."""

import argparse
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders import build_split, find_dataset, has_validation
from dataloaders.augment import RandAugment
from dataloaders.bad_videos import BadVideos
from dataloaders.base import Clip, ClipDataset, Items, PairDataset, Split, TextDataset, Tokenize, collate
from dataloaders.clips import read_clip
from dataloaders.files import find_videos
from dataloaders.formats.schema import read_ids
from dataloaders.frame_cache import FrameCache
from dataloaders.frame_shards import open_shards
from dataloaders.isolation import IsolatedDecoder
from dataloaders.loading import LoaderOptions, build_dataloader
from utils.distributed import barrier, is_main, rank, world_size
from utils.errors import InputError
from utils.files import remove
from utils.video.positions import RELEASED_RULES
from utils.video.transforms import ClipTransform

logger = logging.getLogger("hbi")


@dataclass(frozen=True)
class EvaluationLoaders:
    """Loaders of this process's captions and of its clips, and the clip of each caption of the whole split."""

    text: DataLoader
    clips: DataLoader
    clip_of_caption: Tensor
    split: Split


def build_evaluation_loaders(
    args: argparse.Namespace, tokenizer: Tokenize, resolution: int, device: torch.device, name: str = "test"
) -> EvaluationLoaders:
    """Build the loaders of the split `name`; the resolution is CLIP's."""
    split, videos = find_split(args, name)
    load = partial(build_loader, args, batch_size=args.batch_size_val, training=False, device=device)
    return EvaluationLoaders(
        load(TextDataset(split, tokenizer, args.max_words), workers=0),  # tokenising takes less than starting a process
        load(ClipDataset(split, videos, clip_reader(args, resolution)), workers=args.workers),
        torch.tensor(split.clip_of_caption),
        split,
    )


def build_bank_loader(args: argparse.Namespace, tokenizer: Tokenize, device: torch.device) -> DataLoader:
    """Build the loader of --query_bank random training captions, or of all."""
    captions = read_split(args, "train").captions
    if len(captions) > args.query_bank:
        captions = random.Random(args.seed).sample(captions, args.query_bank)
    texts = TextDataset(Split([], captions, []), tokenizer, args.max_words)
    return build_loader(args, texts, batch_size=args.batch_size_val, workers=0, training=False, device=device)


def build_pair_bank_loaders(
    args: argparse.Namespace, tokenizer: Tokenize, resolution: int, device: torch.device
) -> tuple[DataLoader, DataLoader]:
    """Build loaders of the first caption of each training clip, and of these clips, as published with DiCoSA."""
    split, videos = find_split(args, find_dataset(args.datatype).bank_split)
    first = dict(zip(reversed(split.clip_of_caption), reversed(split.captions), strict=True))
    load = partial(build_loader, args, batch_size=args.batch_size_val, training=False, device=device)
    return (
        load(TextDataset(Split([], list(first.values()), []), tokenizer, args.max_words), workers=0),
        load(ClipDataset(split, videos, clip_reader(args, resolution)), workers=args.workers),
    )


def selection_split(args: argparse.Namespace) -> str:
    """The split that the best epoch is selected on: "val", or "test" where the data set has no validation videos."""
    return "val" if has_validation(args.datatype, args.anno_path, **reader_options(args)) else "test"


def build_training_loader(
    args: argparse.Namespace, tokenizer: Tokenize, resolution: int, device: torch.device
) -> DataLoader:
    """Build the loader of the training pairs."""
    split, videos = find_split(args, "train")
    clips = ClipDataset(split, videos, clip_reader(args, resolution, build_augmentation(args)))
    texts = TextDataset(split, tokenizer, args.max_words)
    pairs = PairDataset(split, texts, clips, build_bad_videos(args, len(videos)))
    return build_loader(args, pairs, batch_size=args.batch_size, workers=args.workers, training=True, device=device)


def find_split(args: argparse.Namespace, name: str) -> tuple[Split, dict[str, Path]]:
    """Read a split's annotations and find its videos; with --skip_missing_videos those not found are left out."""
    split = read_split(args, name)
    videos = find_files(args, name, split.clips)
    return split.keep_videos(videos), videos


def read_split(args: argparse.Namespace, name: str) -> Split:
    """Read a split's annotations."""
    return build_split(args.datatype, args.anno_path, name, **reader_options(args))


def reader_options(args: argparse.Namespace) -> dict[str, str]:
    """Options of the data set's reader from the flags."""
    return {name: getattr(args, name) for name in find_dataset(args.datatype).options}


def find_files(args: argparse.Namespace, name: str, clips: Sequence[Clip]) -> dict[str, Path]:
    """Find the files of the videos of a split's clips, or their places in shards of frames.

    Those in --skip_list are left out; --output_dir gets a list of missing ones.
    """
    wanted = dict.fromkeys(clip.video_id for clip in clips)
    if args.skip_list:
        skipped = wanted.keys() & set(read_ids(Path(args.skip_list)))
        logger.warning("%s: %d of the %d videos of %s are left out", args.skip_list, len(skipped), len(wanted), name)
        wanted = [video_id for video_id in wanted if video_id not in skipped]
        if not wanted:
            raise InputError(f"{args.skip_list}: leaves no video of {name}; give another --skip_list")
    shards = open_shards(args.video_path)
    found = find_videos(
        args.video_path,
        wanted,
        skip_missing=args.skip_missing_videos,
        missing_list=Path(args.output_dir) / f"missing_videos_{name}.txt",
        files=shards.videos if shards else None,
    )
    if shards:
        places = ((found[clip.video_id], clip.start, clip.end) for clip in clips if clip.video_id in found)
        shards.check(places, sampling_options(args))
    return found


def build_bad_videos(args: argparse.Namespace, videos: int) -> BadVideos:
    """Build the count of broken ones among `videos` training videos, in --output_dir; it continues on resuming."""
    path = Path(args.output_dir) / "bad_videos.txt"
    if is_main() and not args.resume:
        remove(path, r"bad_videos\.txt")
    barrier()
    return BadVideos(path, max_count=min(int(args.max_bad_videos * videos), videos - 1))


def build_augmentation(args: argparse.Namespace) -> RandAugment | None:
    """Build the augmentation of --augment, or the published one of the data set."""
    config = args.augment or find_dataset(args.datatype).augmentation
    return None if config == "none" else RandAugment(config)


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of `utils.video.positions.Sampling`, but the window, from the flags."""
    dataset = find_dataset(args.datatype)
    return {
        "framerate": args.video_framerate,
        "max_frames": args.max_frames,
        "rule": RELEASED_RULES[args.frame_rule] if args.frame_rule else dataset.frame_rule,
        "slice_framepos": args.slice_framepos,
        "whole_seconds": dataset.whole_seconds,
    }


def clip_reader(args: argparse.Namespace, resolution: int, augment: RandAugment | None = None) -> Callable[..., Tensor]:
    """Bind the arguments of `read_clip` except path and times."""
    shards, cache, decode = open_shards(args.video_path), None, None
    if shards and args.frame_cache:
        raise InputError(f"--frame_cache: {args.video_path} holds decoded frames already; leave --frame_cache out")
    if args.frame_cache:
        options = args.frame_cache, args.frame_cache_gb, args.frame_cache_form
        cache = FrameCache(*options, videos=args.video_path, measure=is_main())
    if shards or args.isolate_decoder:
        decode = shards.read if shards else IsolatedDecoder(args.isolate_decoder)
    return partial(
        read_clip,
        transform=ClipTransform(resolution, exact=args.exact_resize),
        augment=augment,
        cache=cache,
        decode=decode,
        **sampling_options(args),
    )


def build_loader(
    args: argparse.Namespace,
    dataset: Items,
    *,
    collate: Callable[..., dict[str, Tensor]] = collate,
    **options: Any,
) -> DataLoader:
    """Build this process's loader; `options` are further `LoaderOptions`."""
    process: dict[str, Any] = {"max_frames": args.max_frames, "seed": args.seed}
    process |= {"rank": rank(), "world_size": world_size()}
    return build_dataloader(dataset, LoaderOptions(**process, **options), collate)
