"""Draw the training curves of a run: `python scripts/plot_run.py output/run --output curves.png`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.figures.curves import curves_figure, read_scalars
from scripts.figures.style import figure_path, save_figure
from utils.run import run


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the run of the command line `argv`."""
    parser = argparse.ArgumentParser(description="Draw the training curves of a run.")
    parser.add_argument("run", type=Path, help="output folder of a training run")
    parser.add_argument("--output", required=True, help="figure to write, .png, .svg or .pdf")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")
    args = parser.parse_args(argv)
    path = figure_path(args.output)
    save_figure(curves_figure(read_scalars(args.run)), path)
    print(path)


if __name__ == "__main__":
    run(main)
