"""Measure one subject and print a table: `python scripts/benchmark.py labels --json labels.json`.

`--compare FILE` prints next to each number the ratio of an earlier `--json` file to it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from scripts.benchmarks import (
    cache,
    captions,
    demo,
    features,
    films,
    frames,
    host,
    labels,
    loader,
    methods,
    plan,
    ranks,
    search,
    shortlist,
    similarity,
    train,
    vqa,
)
from scripts.benchmarks.measure import Row, count
from utils.distributed import start
from utils.errors import InputError
from utils.files import atomic_write
from utils.run import run
from utils.texts import read_json

ON_A_DEVICE = {
    "features": features,
    "similarity": similarity,
    "methods": methods,
    "shortlist": shortlist,
    "labels": labels,
    "train": train,
    "vqa": vqa,
    "captions": captions,
}
MEASURED = {**ON_A_DEVICE, "loader": loader, "frames": frames, "search": search}
SUBJECTS = {**MEASURED, "plan": plan, "films": films, "cache": cache, "ranks": ranks, "host": host, "demo": demo}
"""Each has `add_arguments(parser)` and `measure`, which takes those arguments and returns or yields table rows."""


def format_table(rows: Sequence[Row], earlier: Sequence[Row] = ()) -> str:
    """Lay out rows as fixed-width text, columns of words left-aligned.

    Args:
        rows: one mapping of column to number or words a row, under "case" its name.
        earlier: rows of an earlier run; ratios to rows of the same name are added.

    Returns:
        Lines, the header first.
    """
    before = {row["case"]: row for row in earlier}
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns]
    for row in rows:
        cells = [row["case"]]
        for column in columns[1:]:
            value, old = row.get(column), before.get(row["case"], {}).get(column)
            text = isinstance(value, str)
            ratio = f" ({old / value:.2f}x)" if old and value and not text else ""
            cells.append("" if value is None else value if text else f"{value:.4g}{ratio}")
        lines.append(cells)
    text = [any(isinstance(row.get(column), str) for row in rows) for column in columns]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, text, strict=True)
        ).rstrip()
        for line in lines
    )


def shown(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows, and print the name of each measured one on standard error."""
    for row in rows:
        print(f"measured {row['case']}", file=sys.stderr)
        yield row


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier run.

    Raises:
        InputError: the file is missing or was not written by this script.
    """
    report = read_json(path)
    try:
        rows = report["rows"]
        if not all("case" in row for row in rows):
            raise KeyError("case")
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a benchmark file; give one written with --json") from error
    return rows


def measure_all(threads: int) -> list[Row]:
    """Measure each subject with its default sizes in a separate process.

    Raises:
        InputError: one of them failed.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MEASURED:
            file = Path(folder) / f"{name}.json"
            command = [sys.executable, __file__, name, "--threads", str(threads), "--json", str(file)]
            if subprocess.run(command).returncode:
                raise InputError(f"{name}: failed; run `python scripts/benchmark.py {name}` for itself")
            rows += [{**row, "case": f"{name}: {row['case']}"} for row in read_rows(file)]
    return rows


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    subjects = parser.add_subparsers(dest="subject", required=True)
    descriptions = {name: subject.__doc__ for name, subject in SUBJECTS.items()} | {"all": "Every measured subject."}
    for name, description in descriptions.items():
        arguments = subjects.add_parser(
            name,
            help=description.partition("\n")[0],
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        arguments.add_argument("--threads", type=count, default=2, help="processor threads")
        arguments.add_argument("--json", type=Path, metavar="FILE", help="write the table here")
        arguments.add_argument("--compare", type=Path, metavar="FILE", help="a table written earlier with --json")
        arguments.add_argument("--debug", action="store_true", help="show tracebacks")
        if name in ON_A_DEVICE:
            arguments.add_argument(
                "--device", help="as PyTorch names it; left out: CUDA where there is one, else the CPU"
            )
        if name in SUBJECTS:
            SUBJECTS[name].add_arguments(arguments)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        argv: the words after the script's name.
    """
    options = vars(build_parser().parse_args(argv))
    name, threads, output, compared, _ = (
        options.pop(key) for key in ("subject", "threads", "json", "compare", "debug")
    )
    earlier = read_rows(compared) if compared else []
    torch.set_num_threads(threads)
    device = start(options.pop("device")) if name in ON_A_DEVICE else torch.device("cpu")
    with device if device.type != "cpu" else nullcontext():  # the default device of new tensors
        rows = list(shown(measure_all(threads) if name == "all" else SUBJECTS[name].measure(**options)))
    print(format_table(rows, earlier))
    if output:
        with atomic_write(output) as file:
            versions = {"torch": torch.__version__, "python": platform.python_version()}
            machine = {"system": platform.platform(), "processors": os.cpu_count(), "threads": threads}
            machine["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
            json.dump({"subject": name, **versions, **machine, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    run(main)
