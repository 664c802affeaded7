"""Train and evaluate a grid of named variants with several seeds, and test their differences for significance.

python scripts/ablation.py scripts/experiments/retrieval.json --seeds 0 1 2 3 --jobs 2 --output output/ablation \
    -- --anno_path data/shapes/anns --video_path data/shapes/MSRVTT_Videos --base_encoder clip.pt

Flags after the -- hold for all variants. Finished runs are kept, and interrupted ones resume.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from scripts.experiments.effects import outcomes, paired_effect
from scripts.experiments.grid import Grid, read_grid
from scripts.experiments.runs import finish_all, mean_and_interval, submit_all
from scripts.figures.effects import effects_figure
from scripts.figures.style import save_figure
from utils.arguments import COUNT, ArgumentParser
from utils.errors import InputError
from utils.files import atomic_write, claim_folder
from utils.logger import table, write_metrics
from utils.run import run

Outcomes = dict[str, dict[int, dict[str, np.ndarray]]]
"""Value of each query (whether it is right, or a score) by variant, seed and measure."""


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the missing runs, and write table.txt, effects.png and ablation.json."""
    argv = list(sys.argv[1:] if argv is None else argv)
    split = argv.index("--") if "--" in argv else len(argv)
    args, common = parse(argv[:split]), argv[split + 1 :]
    grid = read_grid(args.grid)
    claim_folder(args.output, "ablation", flag="--output")
    runs = list(grid.runs(args.output, args.seeds, common))
    if args.submit is not None:
        submit_all(runs, args.output / "jobs", dict(map(setting, args.submit)))
    elif not args.report:
        finish_all(runs, args.jobs)
    found = summarise(grid, collect(grid, args.output, args.seeds))
    report(found, args.output)
    return found


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the flags before the --."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="JSON file of the variants, see scripts/experiments/grid.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4, 5, 6, 7], help="runs of each variant")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and the results")
    parser.add_argument("--jobs", type=COUNT, default=1, help="runs at a time on this machine")
    parser.add_argument(
        "--submit",
        nargs="*",
        metavar="KEY=VALUE",
        help="run as Slurm job arrays by submitit, with its settings, such as slurm_partition=gpu",
    )
    parser.add_argument("--report", action="store_true", help="run nothing, summarise what is finished")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")
    return parser.parse_args(argv)


def setting(text: str) -> tuple[str, str | int]:
    """Split KEY=VALUE; a whole number is one.

    Raises:
        InputError: no "=".
    """
    key, found, value = text.partition("=")
    if not found:
        raise InputError(f"--submit {text}: write KEY=VALUE")
    return key, int(value) if value.isdecimal() else value


def collect(grid: Grid, output: Path, seeds: Sequence[int]) -> Outcomes:
    """Outcomes of the finished runs of the grid's own script; an InputError if there are none."""
    found: Outcomes = {}
    own = [name for name, variant in grid.variants.items() if variant.script in (None, grid.script)]
    for name in own:
        folders = {seed: grid.folder(output, name, seed) for seed in seeds}
        done = {seed: outcomes(folder) for seed, folder in folders.items() if (folder / "metrics.json").is_file()}
        if done:
            found[name] = done
    if not found:
        raise InputError(f"{output}: no run is finished; leave out --report")
    return found


def summarise(grid: Grid, found: Outcomes) -> dict:
    """Means of each variant over its seeds, and effects of the comparisons over the seeds that both have."""
    measures = list(next(iter(next(iter(found.values())).values())))
    variants = {
        name: {
            measure: mean_and_interval([100.0 * float(right[measure].mean()) for right in runs.values()])
            for measure in measures
        }
        for name, runs in found.items()
    }
    effects = []
    for first, second in grid.comparisons:
        both = sorted(found.get(first, {}).keys() & found.get(second, {}))
        if both:
            for measure in measures:
                arms = (np.stack([found[name][seed][measure] for seed in both]) for name in (first, second))
                effects.append({"of": first, "against": second, "measure": measure, **paired_effect(*arms)})
    return {"variants": variants, "effects": effects}


def report(found: dict, folder: Path) -> None:
    """Print and write the tables, the picture and the numbers."""
    measures = list(next(iter(found["variants"].values())))
    rows = [
        [name, len(cells[measures[0]]["values"])] + [_mean(cells[measure]) for measure in measures]
        for name, cells in found["variants"].items()
    ]
    text = table(["variant", "seeds", *measures], rows) + "\n\n"
    effects = [
        [
            f"{each['of']} - {each['against']}",
            each["measure"],
            each["seeds"],
            f"{each['effect']:+.2f}",
            "[{:+.2f}, {:+.2f}]".format(*each["interval"]),
            "-" if each["p_seeds"] is None else f"{each['p_seeds']:.4f}",
            f"{each['p_queries']:.4f}",
        ]
        for each in found["effects"]
    ]
    text += table(["effect", "measure", "seeds", "points", "95 %", "p seeds", "p queries"], effects)
    text += (
        "\n\nMeans +- 95 % over seeds. Effects: 95 % by a bootstrap of seeds and queries, p by randomisation of each.\n"
    )
    print(text)
    with atomic_write(folder / "table.txt") as file:
        file.write(text)
    write_metrics(folder / "ablation.json", found)
    if found["effects"]:
        save_figure(effects_figure(found["effects"]), folder / "effects.png")


def _mean(cell: dict) -> str:
    return ("{mean:.1f} +- {interval:.1f}" if len(cell["values"]) > 1 else "{mean:.1f}").format(**cell)


if __name__ == "__main__":
    run(main)
