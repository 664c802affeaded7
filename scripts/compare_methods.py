"""Train and evaluate several methods on one data set with the same budget and seeds.

python scripts/compare_methods.py --methods hbi dicosa diffusionret --seeds 0 1 2 --output output/compare \
    -- --anno_path data/shapes/anns --video_path data/shapes/MSRVTT_Videos --base_encoder clip.pt --epochs 5

Flags after the -- are those of main_retrieval.py and hold for all methods. Finished runs are kept.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import METHODS
from scripts.experiments.runs import Run, mean_and_interval
from scripts.figures.comparison import comparison_figure
from scripts.figures.style import save_figure
from utils.arguments import ArgumentParser
from utils.errors import InputError
from utils.files import atomic_write, claim_folder
from utils.logger import table, write_metrics
from utils.run import run as run_script

STAGES = {"diffusionret": ("discrimination", "generation")}
"""Methods with several stages, each trained from the best checkpoint of the one before; a stage is a table row."""
COLUMNS = ("R1", "R5", "R10")


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the missing runs, and write table.txt, comparison.png and comparison.json."""
    argv = list(sys.argv[1:] if argv is None else argv)
    split = argv.index("--") if "--" in argv else len(argv)
    args, common = parse(argv[:split]), argv[split + 1 :]
    own = dict(map(split_options, args.options))
    claim_folder(args.output, "comparison", flag="--output")
    runs: dict[str, list[dict]] = {}
    for seed in args.seeds:
        for method in args.methods:
            before = None
            for stage in STAGES.get(method, (None,)):
                name = f"{method} {stage}" if stage else method
                words = ["--method", method, "--seed", str(seed), *common, *own.get(method, [])]
                words += ["--stage", stage] if stage else []
                folder = args.output / name.replace(" ", "_") / f"seed_{seed}"
                run = Run(folder, ("--do_train", "1", *words), needs={"--init_model": before} if before else {})
                runs.setdefault(name, []).append(run.finish())
                before = folder
    found = {name: summarise(metrics) for name, metrics in runs.items()}
    report(found, args.output, len(args.seeds))
    return found


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the flags before the --."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS), help="left out: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="runs of each method")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and the results")
    parser.add_argument("--options", nargs="+", default=[], metavar="METHOD=FLAGS",
                        help='further flags of one method, such as "hbi=--teacher exact --kl 2"')
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")
    return parser.parse_args(argv)


def split_options(text: str) -> tuple[str, list[str]]:
    """Split METHOD=FLAGS.

    Raises:
        InputError: no such method.
    """
    method, _, flags = text.partition("=")
    if method not in METHODS:
        raise InputError(f"--options {text}: write METHOD=FLAGS, with a method of {', '.join(METHODS)}")
    return method, shlex.split(flags)


def summarise(runs: list[dict]) -> dict:
    """Means and half widths of 95 % intervals over seeds, in both directions; "plain" where scores are processed."""
    kinds = {"scores": runs} | ({"plain": [metrics["plain"] for metrics in runs]} if "plain" in runs[0] else {})
    return {
        kind: {
            side: {column: mean_and_interval([each[side][column] for each in metrics]) for column in COLUMNS}
            for side in ("t2v", "v2t")
        }
        for kind, metrics in kinds.items()
    }


def report(found: dict, folder: Path, seeds: int) -> None:
    """Print and write the table, the picture and the numbers."""
    rows = {
        name if kind == "scores" else f"{name}, similarity alone": sides
        for name, kinds in found.items()
        for kind, sides in kinds.items()
    }

    def cells(sides: dict) -> list[str]:
        each = (sides[side][column] for side in ("t2v", "v2t") for column in COLUMNS)
        return ["{mean:.1f} +- {interval:.1f}".format(**cell) for cell in each]

    header = ["", *(f"{side} {column}" for side in ("t2v", "v2t") for column in COLUMNS)]
    text = table(header, [[name, *cells(sides)] for name, sides in rows.items()])
    text += f"\n\nMeans over {seeds} seeds, +- 95 % intervals. They show how runs differ by seed, not by data set.\n"
    print(text)
    with atomic_write(folder / "table.txt") as file:
        file.write(text)
    write_metrics(folder / "comparison.json", found)
    recalls = {name: {side: sides[side]["R1"] for side in ("t2v", "v2t")} for name, sides in rows.items()}
    save_figure(comparison_figure(recalls), folder / "comparison.png")


if __name__ == "__main__":
    run_script(main)
