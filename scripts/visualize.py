"""Draw how a caption and a video interact at the entity, the action and the event level.

python scripts/visualize.py --video X.mp4 --caption "..." --checkpoint pytorch_model.bin.N --output pair.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import load_model
from scripts.benchmarks.measure import count
from scripts.figures.heatmap import heatmap_figure
from scripts.figures.hierarchy import hierarchy_figure
from scripts.figures.style import figure_path, save_figure
from scripts.figures.view import look
from scripts.model_arguments import add_device_arguments, add_model_arguments, model_options
from utils.distributed import start
from utils.run import run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    pair = parser.add_argument_group("pair")
    pair.add_argument("--video", required=True, help="video file")
    pair.add_argument("--caption", required=True, help="sentence")
    pair.add_argument("--max_words", type=count, default=32, help="tokens of a caption, its ends included")
    pair.add_argument("--max_frames", type=count, default=12, help="frames of a video")
    pair.add_argument("--framerate", type=count, default=1, help="frames taken from a second of video")
    figure = parser.add_argument_group("figure")
    figure.add_argument("--output", required=True, help="figure to write, .png, .svg or .pdf")
    figure.add_argument("--heatmap", help="heat maps to write, in one of the same formats")
    figure.add_argument("--interaction", choices=("estimator", "exact"), default="estimator",
                        help="what the lines show: the estimate of a model of HBI, or the exact interaction")
    add_model_arguments(parser)
    add_device_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pair of the command line `argv`."""
    args = build_parser().parse_args(argv)
    draw = {figure_path(args.output): hierarchy_figure}
    if args.heatmap:
        draw[figure_path(args.heatmap)] = heatmap_figure
    model = load_model(**model_options(args), device=start(args.device))
    view = look(
        model,
        args.caption,
        args.video,
        max_words=args.max_words,
        max_frames=args.max_frames,
        framerate=args.framerate,
        exact=args.interaction == "exact",
    )
    for path, make in draw.items():
        save_figure(make(view), path)
        print(path)


if __name__ == "__main__":
    run(main)
