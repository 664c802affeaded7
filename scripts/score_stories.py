"""Score the correctness of captions of the built-in videos.

`python scripts/score_stories.py output/captions` reads the output of main_captioning.py there and adds stories.json:
the percentages of captions with the right things and colours, with the right events, and with the right order.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.experiments.captions import read_captions, story_outcomes
from utils.errors import InputError
from utils.logger import table, write_metrics
from utils.run import run


def score_run(folder: Path) -> dict[str, float]:
    """Percentages over the captions of a run.

    Raises:
        InputError: a file is missing, or not about the built-in videos.
    """
    found = story_outcomes(*read_captions(folder))
    if not found:
        raise InputError(f"{folder}: its references are not of the built-in videos; give a run on data/shapes")
    return {name: 100 * float(right.mean()) for name, right in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Score the runs of the command line `argv`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of main_captioning.py")
    rows = []
    for folder in parser.parse_args(argv).runs:
        found = score_run(folder)
        write_metrics(folder / "stories.json", found)
        rows.append([str(folder), *found.values()])
    print(table(["captions", *found], rows))


if __name__ == "__main__":
    run(main)
