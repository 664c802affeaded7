"""Encode every video of a folder, or every clip of a data set's split, to Parquet files and .npy arrays.

python scripts/extract_features.py --checkpoint output/run --video_path my_videos --output features
torchrun --nproc_per_node 4 scripts/extract_features.py --checkpoint output/run --datatype msrvtt --split test \
    --anno_path data/MSR-VTT/anns --video_path MSRVTT_Videos --output features

Clips are divided into parts, which the processes share. An interrupted run resumes after the parts it wrote.
"""

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataloaders import Clip, build_split, find_dataset
from dataloaders.clips import read_clip
from dataloaders.files import find_videos, list_videos
from models import RetrievalMethod, load_model
from models.export import find_checkpoint, model_digest
from models.shortlist import vectors
from scripts.model_arguments import add_device_arguments, add_model_arguments, model_options
from utils.arguments import COUNT, WORKERS, ArgumentParser
from utils.config import find_config
from utils.distributed import barrier, is_main, rank, start, world_size
from utils.engine.builders import check_sizes
from utils.errors import InputError, printable
from utils.files import atomic_write, claim_folder
from utils.logger import progress
from utils.run import run
from utils.texts import read_json
from utils.video.decode import DECODER
from utils.video.transforms import ClipTransform

PART = 64
"""Number of clips in a part."""
SAMPLING = ("max_frames", "video_framerate", "frame_rule", "slice_framepos")
"""Flags that are also in a run's config.json."""

logger = logging.getLogger("hbi")


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--video_path", type=Path, required=True, help="folder of the videos")
    data.add_argument("--anno_path", help="folder of a data set's annotations; left out: every video of the folder")
    data.add_argument("--datatype", default="csv", help="name of the data set")
    data.add_argument("--split", choices=("train", "val", "test"), default="test", help="of the data set")
    data.add_argument("--max_frames", type=COUNT, default=12, help="frames of a clip")
    data.add_argument("--video_framerate", type=COUNT, default=1, help="frames taken from a second of video")
    data.add_argument("--frame_rule", choices=("decord", "cv2"), help="which frames; left out: the data set's")
    data.add_argument("--slice_framepos", type=int, choices=(0, 1, 2), default=2,
                      help="of too many frames take the first, the last or evenly spread ones")
    data.add_argument("--output", type=Path, required=True, help="folder to write")
    data.add_argument("--batch_size", type=COUNT, default=16, help="clips that are encoded together")
    data.add_argument("--workers", type=WORKERS, default=2, help="decoding processes of each process")
    add_model_arguments(parser)
    add_device_arguments(parser)
    return parser


class Clips(Dataset):
    """Frames of each clip, or the reason of a failure: (index, uint8 (n, 3, R, R) or None, reason or "")."""

    def __init__(self, clips: Sequence[Clip], files: Sequence[Path], read: Callable[..., Tensor]):
        self.clips, self.files, self.read = clips, files, read

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, str]:
        clip = self.clips[index]
        try:
            return index, self.read(self.files[index], start=clip.start, end=clip.end), ""
        except InputError as error:
            return index, None, str(error)


def find_clips(args: argparse.Namespace) -> tuple[list[Clip], list[Path]]:
    """The clips of the command line and their files."""
    if args.anno_path is None:
        files = list_videos(args.video_path)
        if not files:
            raise InputError(f"{args.video_path}: no such folder, or no video in it; give a folder of videos")
        return [Clip(path.relative_to(args.video_path).as_posix()) for path in files], files
    clips = build_split(args.datatype, args.anno_path, args.split).clips
    files = find_videos(args.video_path, [clip.video_id for clip in clips])
    return clips, [files[clip.video_id] for clip in clips]


def describe(args: argparse.Namespace, clips: Sequence[Clip], files: Sequence[Path], model: RetrievalMethod) -> dict:
    """Description of the features for features.json."""
    sizes = [[*asdict(clip).values(), path.stat().st_size] for clip, path in zip(clips, files, strict=True)]
    sampling = {name: getattr(args, name) for name in SAMPLING} | {"datatype": args.datatype, "decoder": DECODER}
    return {
        "method": model.method,
        "options": json.loads(json.dumps(asdict(model.options))),
        "model": model_digest(args.checkpoint),
        "sampling": sampling,
        "clips": len(clips),
        "clips_sha256": hashlib.sha256(json.dumps(sizes).encode()).hexdigest(),
    }


@torch.inference_mode()
def encode_part(model: RetrievalMethod, clips: Clips, rows: range, args: argparse.Namespace) -> pyarrow.Table:
    """The features of some clips, a row each."""
    loader = DataLoader(clips, args.batch_size, sampler=rows, num_workers=args.workers, collate_fn=list)
    table = {name: [] for name in ("video", "start", "end", "frames", "reason", "vector", "tokens")}
    for batch in loader:
        usable = [frames for _, frames, _ in batch if frames is not None]
        lengths = torch.tensor([len(frames) for frames in usable])
        mask = (torch.arange(args.max_frames) < lengths[:, None]).long().to(model.device)
        if usable:
            tokens = model.frame_tokens(torch.cat(usable).to(model.device), mask)
            found = iter(zip(vectors(model, tokens, mask, "video").cpu().numpy(), tokens.cpu().numpy(), strict=True))
        for index, frames, reason in batch:
            clip, count = clips.clips[index], 0 if frames is None else len(frames)
            vector, own = (None, None) if frames is None else next(found)
            own = None if own is None else own[:count].ravel()
            for name, value in zip(table, (*asdict(clip).values(), count, reason, vector, own), strict=True):
                table[name].append(value)
    numbers = pyarrow.list_(pyarrow.float32())
    text, time = pyarrow.string(), pyarrow.float64()
    types = (text, time, time, pyarrow.int32(), text, numbers, numbers)
    return pyarrow.table(table, pyarrow.schema(list(zip(table, types, strict=True))))


def write_arrays(parts: Sequence[Path], output: Path, clips: int, max_frames: int, width: int) -> list[str]:
    """Write vectors.npy (clips, D) and tokens.npy (clips, N_v, D), NaN for unusable clips, and return the reasons."""
    skipped = []
    files = {"vectors.npy": (clips, width), "tokens.npy": (clips, max_frames, width)}
    for name, shape in files.items():
        with atomic_write(output / name, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                for row in pyarrow.parquet.read_table(part).to_pylist():
                    numbers = np.zeros(shape[1:], np.float32)
                    found = row["vector" if name == "vectors.npy" else "tokens"]
                    numbers.reshape(-1)[: len(found or ())] = found or ()
                    file.write((numbers if found else numbers + np.nan).tobytes())
                    if name == "vectors.npy" and not found:
                        skipped.append(f"{row['video']}: {row['reason']}")
    return skipped


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; by default frames are sampled as in the run that trained the model."""
    parser = build_parser()
    trained = find_config(find_checkpoint(parser.parse_args(argv).checkpoint)[0])
    if trained:
        parser.set_defaults(**{name: trained.flags[name] for name in SAMPLING if name in trained.flags})
    return parser.parse_args(argv)


def claim(args: argparse.Namespace, about: dict) -> None:
    """Make the output folder, or check that its features are of the same clips, model and sampling."""
    claim_folder(args.output, "features", apart_from=[args.video_path], flag="--output")
    path = args.output / "features.json"
    if path.exists() and read_json(path) != about:
        raise InputError(f"{args.output}: was made of other videos, or otherwise; give another --output")
    barrier()  # no process writes before all have checked
    if is_main():
        with atomic_write(path) as file:
            json.dump(about, file, indent=1)


def clip_reader(args: argparse.Namespace, resolution: int) -> Callable[..., Tensor]:
    """Read the frames of a clip as the command line says."""
    dataset = find_dataset(args.datatype)
    return partial(
        read_clip,
        transform=ClipTransform(resolution),
        framerate=args.video_framerate,
        max_frames=args.max_frames,
        slice_framepos=args.slice_framepos,
        rule=args.frame_rule or dataset.frame_rule,
        whole_seconds=dataset.whole_seconds,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Extract the features of the command line `argv`."""
    args = parse(argv)
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    model = load_model(**model_options(args), device=start(args.device))
    check_sizes(model, 2, args.max_frames)
    clips, files = find_clips(args)
    claim(args, describe(args, clips, files, model))
    items = Clips(clips, files, clip_reader(args, model.clip.config.resolution))
    rows = [range(first, min(first + PART, len(clips))) for first in range(0, len(clips), PART)]
    parts = [args.output / "parts" / f"{number:06}.parquet" for number in range(len(rows))]
    own = [number for number in range(rank(), len(rows), world_size()) if not parts[number].exists()]
    for number in progress(own, "parts", logger, len(own)):
        table = encode_part(model, items, rows[number], args)
        with atomic_write(parts[number], "wb") as file:
            pyarrow.parquet.write_table(table, file)
    barrier()
    if is_main():
        skipped = write_arrays(parts, args.output, len(clips), args.max_frames, model.clip.config.embed_dim)
        for line in skipped:
            print(f"skipped {printable(line)}")
        used = len(clips) - len(skipped)
        print(f"{args.output}: {used} clips in parts, vectors.npy and tokens.npy, {len(skipped)} skipped")
    barrier()


if __name__ == "__main__":
    run(main)
