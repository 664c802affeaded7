"""Encode every video of a folder, or every clip of a data set's split, to Parquet files and .npy arrays.

python scripts/extract_features.py --checkpoint output/run --video_path my_videos --output features
torchrun --nproc_per_node 4 scripts/extract_features.py --checkpoint output/run --datatype msrvtt --split test \
    --anno_path data/MSR-VTT/anns --video_path MSRVTT_Videos --output features

Clips are divided into parts, which the processes share. An interrupted run resumes after the parts it wrote.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch.utils.data import DataLoader

from dataloaders import Clip
from dataloaders.build import sampling_options
from dataloaders.clips import read_clip
from models import RetrievalMethod, load_model
from models.export import find_checkpoint, model_digest
from models.shortlist import vectors
from scripts.clip_parts import Clips, add_clip_arguments, claim_output, clips_digest, find_clips, own_parts, parts
from scripts.model_arguments import add_device_arguments, add_model_arguments, model_options
from utils.arguments import COUNT, ArgumentParser
from utils.config import find_config
from utils.distributed import barrier, is_main, start
from utils.engine.builders import check_sizes
from utils.errors import printable
from utils.files import atomic_write
from utils.logger import progress
from utils.run import run
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
    add_clip_arguments(data)
    data.add_argument("--split", choices=("train", "val", "test"), default="test", help="of the data set")
    data.add_argument("--batch_size", type=COUNT, default=16, help="clips that are encoded together")
    add_model_arguments(parser)
    add_device_arguments(parser)
    return parser


def describe(args: argparse.Namespace, clips: Sequence[Clip], files: Sequence[Path], model: RetrievalMethod) -> dict:
    """Description of the features for features.json."""
    sampling = {name: getattr(args, name) for name in SAMPLING} | {"datatype": args.datatype, "decoder": DECODER}
    return {
        "method": model.method,
        "options": json.loads(json.dumps(asdict(model.options))),
        "model": model_digest(args.checkpoint),
        "sampling": sampling,
        "clips": len(clips),
        "clips_sha256": clips_digest(clips, files),
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


def main(argv: Sequence[str] | None = None) -> None:
    """Extract the features of the command line `argv`."""
    args = parse(argv)
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    model = load_model(**model_options(args), device=start(args.device))
    check_sizes(model, 2, args.max_frames)
    clips, files = find_clips(args, args.split)
    claim_output(args, "features", "features.json", describe(args, clips, files, model))
    transform = ClipTransform(model.clip.config.resolution)
    items = Clips(clips, files, partial(read_clip, transform=transform, **sampling_options(args)))
    rows = parts(len(clips), PART)
    tables = [args.output / "parts" / f"{number:06}.parquet" for number in range(len(rows))]
    for number in progress(own_parts([path.exists() for path in tables]), "parts", logger):
        table = encode_part(model, items, rows[number], args)
        with atomic_write(tables[number], "wb") as file:
            pyarrow.parquet.write_table(table, file)
    barrier()
    if is_main():
        skipped = write_arrays(tables, args.output, len(clips), args.max_frames, model.clip.config.embed_dim)
        for line in skipped:
            print(f"skipped {printable(line)}")
        used = len(clips) - len(skipped)
        print(f"{args.output}: {used} clips in parts, vectors.npy and tokens.npy, {len(skipped)} skipped")
    barrier()


if __name__ == "__main__":
    run(main)
