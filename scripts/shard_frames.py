"""Decode the frames of every video of a folder, or of every clip of a data set, into tar shards of WebDataset.

python scripts/shard_frames.py --video_path MSRVTT_Videos --datatype msrvtt --output MSRVTT_Shards
torchrun --nproc_per_node 4 scripts/shard_frames.py --datatype activity --anno_path data/ActivityNet \
    --video_path ActivityNet --max_frames 64 --output ActivityNet_Shards

The output is given as --video_path (questions: --features_path) in place of the videos, with the same flags of frames.
The processes share the shards. An interrupted run resumes after the shards it wrote.
"""

import argparse
import json
import logging
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from safetensors.numpy import save
from torch.utils.data import DataLoader
from webdataset import TarWriter

from dataloaders.build import sampling_options
from dataloaders.frame_cache import FORMS, pack
from dataloaders.frame_shards import FRAMES, SUFFIX, About, FrameShards, ShardIndex, StoredClip, read_index, shard_path
from dataloaders.isolation import IsolatedDecoder
from scripts.clip_parts import Clips, add_clip_arguments, claim_output, clips_digest, find_clips, own_parts, parts
from utils.arguments import COUNT, ArgumentParser
from utils.distributed import barrier, is_main, start
from utils.errors import InputError, printable
from utils.files import atomic_write, remove, temporary_names
from utils.logger import progress
from utils.run import run
from utils.video.decode import DECODER, decode_clip

SPLITS = ("train", "val", "test")

logger = logging.getLogger("hbi")


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_clip_arguments(parser)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="of the data set (all)")
    parser.add_argument("--form", choices=FORMS, default="lossless",
                        help="keep frames bit by bit, or as JPEG in about a fifth of the space")
    parser.add_argument("--shard_clips", type=COUNT, default=256, help="clips of a shard (%(default)s)")
    parser.add_argument("--isolate_decoder", type=COUNT, nargs="?", const=60, metavar="SECONDS",
                        help="decode in separate processes, where a file that crashes the decoder, or takes longer "
                             "than this (60 if left out), is skipped")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def read_packed(path: Path, decode: Callable[..., np.ndarray], form: str, **sampling: Any) -> bytes:
    """Decode a clip, and pack its frames as in the frame cache."""
    return save(pack(decode(path, **sampling), form))


def write_shard(path: Path, clips: Clips, rows: Sequence[int], folder: Path, workers: int) -> None:
    """Write a shard, the same bytes each time, and then its index.

    Args:
        path: the shard.
        clips: give packed frames.
        rows: numbers of the clips.
        folder: of the videos.
        workers: decoding processes.
    """
    loader = DataLoader(clips, sampler=rows, num_workers=workers, collate_fn=list)
    with atomic_write(path, "wb") as file, TarWriter(file, mtime=0) as tar:
        stored = dict(_write_samples(tar, clips, folder, loader))
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(SUFFIX):
                stored[int(Path(member.name).stem)] |= {"offset": member.offset_data, "size": member.size}
    index = ShardIndex(bytes=path.stat().st_size, clips=[StoredClip(**clip) for clip in stored.values()])
    with atomic_write(path.with_suffix(".json")) as file:
        json.dump(index.model_dump(), file)


def _write_samples(
    tar: TarWriter, clips: Clips, folder: Path, loader: Iterable[list[tuple[int, bytes | None, str]]]
) -> Iterable[tuple[int, dict[str, Any]]]:
    """Write a sample for each usable clip, and yield the number of each clip and what the index says of it."""
    for ((number, frames, reason),) in loader:
        clip, video = clips.clips[number], clips.files[number].relative_to(folder).as_posix()
        about = {"video": video, "start": clip.start, "end": clip.end}
        if frames is not None:
            sample = {"__key__": f"{number:08}", "json": json.dumps(about).encode(), SUFFIX[1:]: frames}
            tar.write(sample)
        yield number, about | {"crc32": zlib.crc32(frames or b""), "reason": reason}


def is_whole(shard: Path) -> bool:
    """Whether a shard and its index were written to their ends."""
    try:
        read_index(shard)
    except InputError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """Write the shards of the command line `argv`."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    start("cpu")
    clips, files = find_clips(args, *args.splits)
    rows, sampling = parts(len(clips), args.shard_clips), sampling_options(args)
    about = {"sampling": sampling, "decoder": DECODER, "form": args.form, "clips": len(clips)}
    about |= {"clips_sha256": clips_digest(clips, files), "shards": len(rows)}
    claim_output(args, "frame shards", FRAMES, About(**about).model_dump())
    if is_main():
        for path in args.output.glob(".*"):
            remove(path, temporary_names(r"\d+\.(tar|json)"))
    barrier()
    decode = IsolatedDecoder(args.isolate_decoder) if args.isolate_decoder else decode_clip
    items = Clips(clips, files, partial(read_packed, decode=decode, form=args.form, **sampling))
    shards = [shard_path(args.output, number) for number in range(len(rows))]
    for number in progress(own_parts([is_whole(shard) for shard in shards]), "shards", logger):
        write_shard(shards[number], items, rows[number], args.video_path, args.workers)
    barrier()
    if is_main():
        report(args.output)
    barrier()


def report(folder: Path) -> None:
    """Print the videos that were skipped, and what is in the shards."""
    shards = FrameShards(folder)
    stored = [clip for _, clip in shards.clips.values()]
    skipped = [clip for clip in stored if clip.reason]
    for clip in skipped:
        print(f"skipped {printable(clip.video)}: {printable(clip.reason)}")
    gigabytes = sum(clip.size for clip in stored) / 1e9
    written = f"{len(stored) - len(skipped)} clips in {shards.about.shards} shards, {gigabytes:.3g} GB"
    print(f"{folder}: {written}, {len(skipped)} skipped")


if __name__ == "__main__":
    run(main)
