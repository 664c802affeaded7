"""Parallel work on videos."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

Result = TypeVar("Result")


def map_videos(
    function: Callable[..., Result], *arguments: Iterable[Any], workers: int, chunksize: int = 1
) -> list[Result]:
    """Map a function over videos, with a progress bar.

    Args:
        function: takes one of each of `arguments`.
        *arguments: of the same length.
        workers: processes; 0 for this one.
        chunksize: videos that a process takes at a time.
    """
    columns = list(map(list, arguments))
    bar = partial(tqdm, desc="videos", total=len(columns[0]), unit="video")
    if not workers:
        return list(bar(map(function, *columns)))
    with ProcessPoolExecutor(workers) as pool:
        return list(bar(pool.map(function, *columns, chunksize=chunksize)))
