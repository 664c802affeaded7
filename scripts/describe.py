"""Caption a video, and show what each word attended to.

python scripts/describe.py VIDEO --checkpoint output/captions/pytorch_model.bin.N [--figure caption.png]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import DescribedWord, Description
from scripts.benchmarks.measure import count
from scripts.figures.caption import caption_figure
from scripts.figures.heatmap import frame_ranges
from scripts.figures.style import figure_path, save_figure
from scripts.model_arguments import add_device_arguments
from scripts.searching.captions import load_captioner
from utils.distributed import start
from utils.engine.builders import check_sizes
from utils.files import atomic_write
from utils.logger import table
from utils.run import run


def add_describe_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this script, and of the command of scripts/search.py."""
    parser.add_argument("video", help="file")
    parser.add_argument("--checkpoint", required=True, help="of main_captioning.py, or the folder of an export")
    parser.add_argument("--beams", type=count, default=5, help="sentences that are followed at once; 1 is greedy")
    parser.add_argument("--max_words", type=count, default=32, help="tokens of the caption, its ends included")
    parser.add_argument("--max_frames", type=count, default=12, help="frames of the video")
    parser.add_argument("--start", type=float, help="seconds; left out: the beginning")
    parser.add_argument("--end", type=float, help="seconds; left out: the end")
    parser.add_argument("--figure", help="figure of the attention to write, .png, .svg or .pdf")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it here")
    add_device_arguments(parser)


def most_attended(word: DescribedWord, said: Description) -> str:
    """The level and the frames that a word attended to most."""
    tokens = ((share, name, place) for name, shares in word.attention.items() for place, share in enumerate(shares))
    share, name, place = max(tokens)
    return f"{name}, frames {frame_ranges(said.frames[name][place])} ({100 * share:.0f} %)"


def describe_video(args: argparse.Namespace) -> None:
    """Print and write the caption of the video of the command line."""
    path = args.figure and figure_path(args.figure)
    model = load_captioner(args.checkpoint, start(args.device))
    check_sizes(model, args.max_words, args.max_frames)
    sampling = {name: getattr(args, name) for name in ("beams", "max_words", "max_frames", "start", "end")}
    said = model.describe(args.video, **sampling)
    print(said.caption)
    rows = [[word.word, f"{word.probability:.3f}", most_attended(word, said)] for word in said.words]
    print(table(["word", "probability", "attended most to"], rows))
    if path:
        save_figure(caption_figure(said), path)
        print(path)
    if args.json:
        with atomic_write(args.json) as file:
            json.dump({"video": args.video, **asdict(said)}, file, indent=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Describe the video of the command line `argv`."""
    options = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], **options)
    add_describe_arguments(parser)
    describe_video(parser.parse_args(argv))


if __name__ == "__main__":
    run(main)
