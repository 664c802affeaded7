"""Watching a folder of videos."""

import time
from collections.abc import Iterator
from pathlib import Path

from dataloaders import files
from scripts.searching.plan import identity
from utils.distributed import from_main


def changes(folder: Path, seconds: float) -> Iterator[None]:
    """Yield whenever the videos of a folder have changed and then been unchanged for `seconds`.

    All processes call it together; the main process watches.
    """
    done = from_main(lambda: _look(folder))
    earlier = done
    while True:
        time.sleep(seconds)
        now = from_main(lambda: _look(folder))
        if now == earlier != done:
            done = now
            yield
        earlier = now


def _look(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): identity(path) for path in files.list_videos(folder)}
