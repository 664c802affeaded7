"""Output of a run: log file and console, progress, tables, metrics files, TensorBoard scalars."""

import importlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import IO, TypeVar

from rich.cells import cell_len
from tqdm import tqdm

from utils.distributed import is_main
from utils.errors import InputError, printable, without_terminal_codes
from utils.files import OUTPUTS, atomic_write, claim_folder, open_own

Item = TypeVar("Item")
CLIENTS = ("wandb", "trackio")
"""Optional packages that scalars can be sent to, with the same interface."""


class _Console(logging.Handler):
    """Writes to standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """A log file that is not written through a link."""

    def _open(self) -> IO:
        return open_own(self.baseFilename, self.mode)


class _Formatter(logging.Formatter):
    """Messages on one line, without terminal control codes."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; a traceback keeps its lines."""
        text = super().format(record)
        return text if record.exc_info else printable(without_terminal_codes(text))


def make_logger(output_dir: str | Path) -> logging.Logger:
    """Make the run's logger: the main process writes to the console and to log.txt, the others nowhere.

    A later call replaces the logger.

    Raises:
        InputError: the folder cannot be written.
    """
    logger = logging.getLogger("hbi")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        if is_main():
            claim_folder(output_dir, "output", names=OUTPUTS, flag="--output_dir")
        else:  # all processes stop if the folder cannot be made
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            logger.addHandler(logging.NullHandler())
            return logger
        log_file = _LogFile(Path(output_dir) / "log.txt", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output_dir}: cannot be written ({error.strerror}); give another --output_dir") from error
    for handler in (log_file, _Console()):
        handler.setFormatter(_Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


def progress(
    items: Iterable[Item], description: str, logger: logging.Logger, total: int | None = None, interval: float = 30.0
) -> Iterator[Item]:
    """Yield `items` and show progress in the main process: a bar on a terminal, otherwise log lines.

    `interval` is the number of seconds between lines, `total` the number of items, by default `len(items)`.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not is_main():
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, description, total, dynamic_ncols=True, leave=False)
    else:
        yield from _logged(items, description, logger, total, interval)


def _logged(
    items: Iterable[Item], description: str, logger: logging.Logger, total: int | None, interval: float
) -> Iterator[Item]:
    """Yield `items` with a line of the log every `interval` seconds."""
    started = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= interval:
            last = now
            left = "?" if total is None else tqdm.format_interval((now - started) / done * (total - done))
            logger.info("%s: %d of %s, %s left", description, done, "?" if total is None else total, left)


def table(header: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """Format rows as text: the first column left-aligned, the others right-aligned, floats with one decimal.

    Raises:
        ValueError: a row has more or fewer cells than the header.
    """
    lines = [
        [f"{cell:.1f}" if isinstance(cell, float) else printable(str(cell)) for cell in row] for row in [header, *rows]
    ]
    columns = []
    for place, cells in enumerate(zip(*lines, strict=True)):
        width = max(map(cell_len, cells))  # a Chinese letter takes two columns, a combining accent none
        blank = [" " * (width - cell_len(cell)) for cell in cells]
        aligned = [space + cell if place else cell + space for space, cell in zip(blank, cells, strict=True)]
        columns.append([aligned[0], "-" * width, *aligned[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def used(counts: Mapping[str, int]) -> str:
    """Describe how much of a split was used, from counts such as {"captions": 4, "captions_left_out": 996}."""
    parts = []
    for name, count in counts.items():
        if not name.endswith("_left_out"):
            left_out = counts[f"{name}_left_out"]
            parts.append(f"{count} of {count + left_out} {name}" if left_out else f"{count} {name}")
    return ", ".join(parts)


def write_metrics(path: str | Path, metrics: Mapping) -> None:
    """Write metrics as JSON.

    Raises:
        InputError: the file cannot be written.
        ValueError: a figure is not finite, which JSON cannot hold.
    """
    with atomic_write(path) as file:
        json.dump(metrics, file, indent=2, allow_nan=False)
        file.write("\n")


class Scalars:
    """A context manager in which the main process writes scalars for TensorBoard and a client.

    Args:
        folder: of the event file; its parent folder names the run at the client.
        done: steps done before; an earlier run's scalars of later steps are discarded.
        client: one of `CLIENTS`, or None.
    """

    def __init__(self, folder: str | Path, done: int = 0, client: str | None = None) -> None:
        self._writer = self._client = None
        if is_main():
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

            self._writer = SummaryWriter(folder, purge_step=done + 1 if done else None)
            if client:
                self._client = importlib.import_module(client)
                self._client.init(project="hbi", name=Path(folder).resolve().parent.name)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add the named values of one step."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if self._client is not None:
            self._client.log(dict(values), step=step)

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._client is not None:
            self._client.finish()
