"""Score the correctness of captions of the built-in videos.

`python scripts/score_stories.py output/captions` reads the output of main_captioning.py there and adds stories.json:
the percentages of captions with the right things and colours, with the right events, and with the right order.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.shapes.grammar import Story, read_story
from utils.errors import InputError
from utils.logger import table, write_metrics
from utils.run import run
from utils.texts import parse_json, read_json, read_text


def score(story: Story | None, true: Story) -> dict[str, bool]:
    """Whether the things, the events, and the order of the events are right."""
    story = story or ()
    return {
        "things": {event[:2] for event in story} == {event[:2] for event in true},
        "events": Counter(story) == Counter(true),
        "story": story == true,
    }


def score_run(folder: Path) -> dict[str, float]:
    """Percentages over the captions of a run.

    Raises:
        InputError: a file is missing, or not about the built-in videos.
    """
    path = folder / "captions.jsonl"
    lines = [parse_json(line, path, number) for number, line in enumerate(read_text(path).splitlines(), start=1)]
    references = read_json(folder / "references.json")["annotations"]
    true = {entry["image_id"]: read_story(entry["caption"]) for entry in references}
    if not lines or not all(true.get(line["image_id"]) for line in lines):
        raise InputError(f"{folder}: its references do not tell of the built-in videos; give a run on data/shapes")
    scores = [score(read_story(line["caption"]), true[line["image_id"]]) for line in lines]
    return {name: 100 * sum(each[name] for each in scores) / len(scores) for name in scores[0]}


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
