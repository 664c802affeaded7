"""Print the results of several runs as one table for each task, and two retrieval runs query by query.

python scripts/compare_runs.py "zero-shot=output/zero" "HBI=output/hbi" [--output table.json] [--queries 20]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.benchmarks.measure import count
from scripts.experiments.queries import MEASURES, difference, paired_ranks, read_queries
from utils.errors import InputError
from utils.logger import table, used, write_metrics
from utils.run import run
from utils.texts import read_json

COLUMNS = ("R1", "R5", "R10", "MedianR")


def main(argv: list[str] | None = None) -> None:
    """Read metrics.json of each run and print one row for it."""
    parser = argparse.ArgumentParser(description="Print the results of several runs as one table for each task.")
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER", help="name of the row and output folder of the run")
    parser.add_argument("--output", help="JSON file that receives the same numbers")
    parser.add_argument("--queries", type=count, nargs="?", const=20, metavar="N",
                        help="of two retrieval runs: how far their ranks differ, and the N queries whose ranks changed "
                             "most (20)")
    arguments = parser.parse_args(argv)
    runs = dict(read_run(text) for text in arguments.runs)
    retrieval = {name: metrics for name, metrics in runs.items() if "t2v" in metrics}
    questions = {name: metrics for name, metrics in runs.items() if "total" in metrics}
    captions = {name: metrics for name, metrics in runs.items() if "captions" in metrics}
    tasks = ((compare_retrieval, retrieval), (compare_answers, questions), (compare_captions, captions))
    print("\n\n".join(compare(task) for compare, task in tasks if task))
    if arguments.queries:
        print("\n" + compare_queries(arguments.runs, arguments.queries))
    if arguments.output:
        write_metrics(arguments.output, runs)


def read_run(text: str) -> tuple[str, dict]:
    """Split NAME=FOLDER and read the folder's metrics.json, and the stories.json of scripts/score_stories.py if there.

    Raises:
        InputError: no "=", or no readable metrics.json in the folder.
    """
    name, found, folder = text.partition("=")
    path = Path(folder) / "metrics.json"
    if not found:
        raise InputError(f"{text}: write NAME=FOLDER")
    stories = Path(folder) / "stories.json"
    return name, read_json(path) | ({"stories": read_json(stories)} if stories.is_file() else {})


def compare_retrieval(runs: dict[str, dict]) -> str:
    """The table of retrieval runs; a dash where a run has no such subset."""
    subsets = list(dict.fromkeys(name for metrics in runs.values() for name in metrics["subsets"]))
    header = ["text to video", "used", *COLUMNS, *(f"R1 {name} negatives" for name in subsets), "video to text R1"]

    def row(metrics: dict) -> list[float | str]:
        hard = [metrics["subsets"][name]["R1"] if name in metrics["subsets"] else "-" for name in subsets]
        return [counts(metrics), *(metrics["t2v"][column] for column in COLUMNS), *hard, metrics["v2t"]["R1"]]

    return table(header, [[name, *row(metrics)] for name, metrics in runs.items()])


def compare_answers(runs: dict[str, dict]) -> str:
    """The table of question-answering runs over all questions: in total, of each kind, and the majority answer's."""
    kinds = list(dict.fromkeys(name for metrics in runs.values() for name in metrics if name not in ("total", "run")))
    header = ["questions", "used", "top1", "top5", *(f"top1 {kind}" for kind in kinds), "majority"]

    def row(metrics: dict) -> list[float | str]:
        total = metrics["total"]["all"]
        each = [metrics[kind]["all"]["top1"] if kind in metrics else "-" for kind in kinds]
        return [counts(metrics), total["top1"], total["top5"], *each, total["majority"]]

    return table(header, [[name, *row(metrics)] for name, metrics in runs.items()])


def compare_captions(runs: dict[str, dict]) -> str:
    """The table of captioning runs; the last columns are shares of correct captions of the built-in videos."""
    scores = list(dict.fromkeys(name for metrics in runs.values() for name in metrics["captions"]))
    stories = list(dict.fromkeys(name for metrics in runs.values() for name in metrics.get("stories", ())))
    header = ["captions", "used", *scores, *(f"right {name}" for name in stories)]

    def row(metrics: dict) -> list[float | str]:
        found = {**metrics["captions"], **metrics.get("stories", {})}
        return [counts(metrics), *(found.get(name, "-") for name in (*scores, *stories))]

    return table(header, [[name, *row(metrics)] for name, metrics in runs.items()])


def compare_queries(runs: list[str], shown: int) -> str:
    """Two tables of two runs: the means and their difference, and the queries whose ranks changed most.

    Raises:
        InputError: there are not two runs, or not of retrieval with the same queries.
    """
    if len(runs) != 2:
        raise InputError(f"--queries: compares two runs, not {len(runs)}")
    names, folders = zip(*(text.partition("=")[::2] for text in runs), strict=True)
    queries = [read_queries(folder) for folder in folders]
    ranks = paired_ranks(*queries)
    rows = []
    for name, measure in MEASURES.items():
        found = difference(*map(measure, ranks))
        interval = f"{found['low']:+.1f} to {found['high']:+.1f}"
        means = found["first"], found["second"], f"{found['difference']:+.1f}"
        rows.append([name, *means, interval, f"{found['p']:.4f}"])
    change = ranks[1] - ranks[0]
    largest = [place for place in (-abs(change)).argsort(kind="stable")[:shown].tolist() if change[place]]
    changed = [[queries[0][place].query, queries[0][place].true.video, *(int(run[place]) for run in ranks)]
               for place in largest]  # fmt: skip
    title = f"{int((change < 0).sum())} of {len(change)} ranks improve, {int((change > 0).sum())} worsen"
    first = table([f"{len(change)} queries", *names, "difference", "95 % interval", "p"], rows)
    return f"{first}\n\n{title}\n" + table(["query", "true video", *(f"rank, {name}" for name in names)], changed)


def counts(metrics: dict) -> str:
    """Numbers of texts and videos of the metrics; unknown for runs of earlier versions."""
    if "run" not in metrics:
        return "-"
    return used({name: count for name, count in metrics["run"].items() if isinstance(count, int)})


if __name__ == "__main__":
    run(main)
