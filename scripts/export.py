"""Write a model for use elsewhere: safetensors with a config, and ONNX graphs that are checked against PyTorch.

`python scripts/export.py --checkpoint output/run --output exported`
writes config.json, model.safetensors and a model card, README.md, which `models.load_model("exported")` reads, and the
graphs text.onnx, frames.onnx and similarity.onnx (for question answering answers.onnx), which need pip install onnx
onnxscript onnxruntime.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import load_model
from models.export import README, WEIGHTS
from scripts.benchmarks.measure import count
from scripts.graphs import check_graphs, require_packages, write_graphs
from scripts.model_arguments import add_model_arguments, model_options
from utils.config import CONFIG
from utils.engine.builders import check_sizes
from utils.run import run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--without_onnx", action="store_true", help="write the weights and the config alone")
    parser.add_argument("--max_words", type=count, default=32, help="words that the graphs take (%(default)s)")
    parser.add_argument("--max_frames", type=count, default=12, help="frames that the graphs take (%(default)s)")
    parser.add_argument("--push_to_hub", metavar="USER/MODEL", help="upload the folder to the Hub as well")
    parser.add_argument("--answers", help="file of the answer vocabulary of a model for question answering")
    add_model_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Export the model of the command line `argv`."""
    args = build_parser().parse_args(argv)
    if not args.without_onnx:
        require_packages()
    model = load_model(**model_options(args), answers=args.answers)
    check_sizes(model, args.max_words, args.max_frames)
    if not args.without_onnx:
        check_graphs(model)
    model.save_pretrained(args.output)
    print(*(args.output / name for name in (CONFIG, WEIGHTS, README)), sep="\n")
    if args.push_to_hub:
        print(model.push_to_hub(args.push_to_hub))
    if not args.without_onnx:
        found = write_graphs(model, args.output, max_words=args.max_words, max_frames=args.max_frames)
        for name, difference in found.items():
            print(f"{args.output / name}: differs from PyTorch by {difference:.1e} at most")


if __name__ == "__main__":
    run(main)
