"""Divide a CSV file of videos and captions into train.csv, val.csv and test.csv, by video.

python scripts/split_pairs.py my_pairs.csv --output my_data --val 0.15 --test 0.15
"""

import argparse
import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.arguments import SHARE, ArgumentParser
from utils.errors import InputError
from utils.files import atomic_write
from utils.run import run
from utils.texts import read_text


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="CSV file with the columns video and caption, and others at will")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, an --anno_path")
    parser.add_argument("--val", type=SHARE, default=0.15, help="share of the videos that select the best epoch")
    parser.add_argument("--test", type=SHARE, default=0.15, help="share of the videos for the figures reported")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another division")
    return parser


def divide(videos: Sequence[str], val: float, test: float, seed: int) -> dict[str, set[str]]:
    """Draw the videos of each split.

    Raises:
        InputError: a split is empty.
    """
    drawn = random.Random(seed).sample(sorted(set(videos)), len(set(videos)))
    sizes = {"val": round(val * len(drawn)), "test": round(test * len(drawn))}
    splits = {"val": set(drawn[: sizes["val"]]), "test": set(drawn[sizes["val"] : sum(sizes.values())])}
    splits["train"] = set(drawn[sum(sizes.values()) :])
    if empty := [name for name, some in splits.items() if not some]:
        raise InputError(f"{len(drawn)} videos: none is left for {empty[0]}; change --val and --test, or add videos")
    return splits


def main(argv: Sequence[str] | None = None) -> None:
    """Divide the file of the command line `argv`."""
    args = build_parser().parse_args(argv)
    reader = csv.DictReader(read_text(args.pairs).splitlines())
    rows, columns = list(reader), reader.fieldnames or []
    if missing := {"video", "caption"} - set(columns):
        raise InputError(f"{args.pairs}, line 1: has no column {min(missing)}; name the columns video and caption")
    if wrong := [line for line, row in enumerate(rows, start=2) if None in row or None in row.values()]:
        raise InputError(f"{args.pairs}, row {wrong[0]}: has not {len(columns)} columns; fix the row")
    for name, videos in divide([row["video"] for row in rows], args.val, args.test, args.seed).items():
        own = [row for row in rows if row["video"] in videos]
        with atomic_write(args.output / f"{name}.csv") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(own)
        print(f"{args.output / name}.csv: {len(own)} captions of {len(videos)} videos")


if __name__ == "__main__":
    run(main)
