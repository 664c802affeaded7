"""Write a model for use elsewhere: safetensors with a config, and ONNX graphs that are checked against PyTorch.

`python scripts/export.py --checkpoint pytorch_model.bin.4 --output exported`
writes config.json and model.safetensors, which `models.load_model("exported")` reads, and text.onnx, frames.onnx and
similarity.onnx (for question answering answers.onnx). The graphs need pip install onnx onnxscript onnxruntime.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import load_model
from models.export import CONFIG, WEIGHTS, save_folder
from scripts.benchmarks.measure import count
from scripts.graphs import require_packages, write_graphs
from utils.engine.builders import check_sizes
from utils.run import run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="pytorch_model.bin.N, or the folder of an export")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--without_onnx", action="store_true", help="write the weights and the config alone")
    parser.add_argument("--max_words", type=count, default=32, help="words that the graphs take (%(default)s)")
    parser.add_argument("--max_frames", type=count, default=12, help="frames that the graphs take (%(default)s)")
    model = parser.add_argument_group("model, as it was trained; the folder of an export tells all of it")
    model.add_argument("--base_encoder", help="CLIP weights it was trained from, if not OpenAI's; the name is enough")
    model.add_argument("--answers", help="file of the answer vocabulary of a model for question answering")
    model.add_argument("--recipe", choices=("released", "corrected"), help="released if left out")
    model.add_argument("--rate", type=share, nargs=3, metavar=("ENTITY", "ACTION", "EVENT"),
                       help="weights of the levels in evaluation")
    for side, tokens in (("text", "words"), ("video", "frames")):
        model.add_argument(f"--{side}_rates", type=share, nargs=2, metavar=("ACTION", "EVENT"),
                           help=f"merged {tokens} of each level, as a share of those of the level below")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")
    return parser


def share(text: str) -> float:
    """The argparse type of a number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return number


def main(argv: Sequence[str] | None = None) -> None:
    """Export the model of the command line `argv`."""
    args = build_parser().parse_args(argv)
    if not args.without_onnx:
        require_packages()
    given = {
        "recipe": args.recipe, "rates": args.rate, "text_rates": args.text_rates, "video_rates": args.video_rates
    }  # fmt: skip
    options = {"method": "hbi"} | {name: value for name, value in given.items() if value is not None}
    model = load_model(args.checkpoint, base_encoder=args.base_encoder, answers=args.answers, **options)
    check_sizes(model, args.max_words, args.max_frames)
    save_folder(model, args.output)
    print(args.output / CONFIG, args.output / WEIGHTS, sep="\n")
    if not args.without_onnx:
        found = write_graphs(model, args.output, max_words=args.max_words, max_frames=args.max_frames)
        for name, difference in found.items():
            print(f"{args.output / name}: differs from PyTorch by {difference:.1e} at most")


if __name__ == "__main__":
    run(main)
