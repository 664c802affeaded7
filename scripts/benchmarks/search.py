"""Queries to indices of random segments of several sizes: recall, time, memory and disk."""

import multiprocessing
import os
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from models.export import model_digest
from scripts.benchmarks.gallery import Queries, fill
from scripts.benchmarks.measure import Row, count, resident_size
from scripts.benchmarks.model import random_model
from scripts.searching.about import Manifest
from scripts.searching.compression import BITS
from scripts.searching.query import SHORTLIST, VideoIndex
from scripts.searching.store import Store
from utils.checkpoint import released_state, save_weights
from utils.plots import lines

SENTENCES = ("a team walks out on the field", "two people cook", "a red circle moves left, then it spins")
SAMPLING = {"framerate": 1, "segment": 12, "overlap": 0}


def add_arguments(parser: ArgumentParser) -> None:
    """Sizes of the indices, and the queries."""
    parser.add_argument("--sizes", type=count, nargs="+", default=[1_000, 10_000], help="segments of each index")
    parser.add_argument("--frames", type=count, default=12, help="frames of a segment")
    parser.add_argument("--bits", type=int, choices=BITS, default=4, help="of each number of the tokens")
    parser.add_argument("--queries", type=count, default=200, help="queries that are timed, and whose recall is taken")
    parser.add_argument("--folder", type=Path, help="where the indices are made and stay; left out: they are removed")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture of the seconds over the sizes")


def measure(
    sizes: list[int], frames: int, bits: int, queries: int, folder: Path | None, plot: Path | None
) -> Iterator[Row]:
    """Yield a row for each size.

    Queries run in a separate process, whose memory is measured, with ViT-B/32's text encoder. "recall" is the share of
    queries whose nearest segment by an exact scan is in the `SHORTLIST`.
    """
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = Path(temporary, "pytorch_model.bin.0")
        save_weights(released_state(random_model(temporal=None)), checkpoint)
        options = {"checkpoint": str(checkpoint), "digest": model_digest(checkpoint), "frames": frames, "bits": bits}
        for size in sizes:
            rows.append(_row(folder / f"{size} segments", size, queries, **options))
            yield rows[-1]
    if plot:
        curves = {name: [[row[axis] for row in rows] for axis in ("segments", name)] for name in ("p50 s", "p99 s")}
        lines(plot, curves, labels=("segments", "seconds of a query"))


def _row(address: Path, size: int, queries: int, *, checkpoint: str, digest: str, frames: int, bits: int) -> Row:
    """Make an index and query it."""
    sampling = {**SAMPLING, "max_frames": frames}
    manifest = Manifest(folder="/videos", model={"checkpoint": checkpoint}, digest=digest,
                        sampling=sampling, max_words=32, bits=bits)  # fmt: skip
    began = time.perf_counter()
    drawn = fill(Store(address), manifest, random_model(temporal=None).clip.config.embed_dim, size, queries)
    built = time.perf_counter() - began
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        found = pool.apply(partial(ask, str(address), drawn, torch.get_num_threads()))
    disk = sum(file.stat().st_size for file in address.rglob("*") if file.is_file()) / 1e9
    busy = os.getloadavg()[0]
    return {"case": f"{size} segments", "segments": size, "built s": built, "GB on disk": disk, **found, "load": busy}


def ask(address: str, queries: Queries, threads: int) -> Row:
    """Open an index and query it, in a process of its own."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    index = VideoIndex(address)
    opened = time.perf_counter() - began
    times = []
    for number in range(len(queries.vectors) + len(SENTENCES)):
        began = time.perf_counter()
        index.search(SENTENCES[number % len(SENTENCES)] + f" {number}")
        times.append(time.perf_counter() - began)
    times = np.array(times[len(SENTENCES) :])  # without the first ones, which fill caches
    recall = np.mean([_found(index, *query) for query in zip(queries.vectors, queries.nearest, strict=True)])
    peak = resident_size("VmHWM") / 1024  # ru_maxrss would be at least that of the process that started this one
    tail = {f"p{share} s": float(np.percentile(times, share)) for share in (50, 99)}
    return {"start s": opened, **tail, "recall": float(recall), "peak GiB": peak}


def _found(index: VideoIndex, vector: np.ndarray, nearest: int) -> bool:
    """Whether a segment is in the shortlist of a query."""
    rows = index.store.nearest(vector.astype(np.float32), SHORTLIST, None, ["video", "number"])
    names = rows["video"].to_pylist(), rows["number"].to_pylist()
    return any(int(video[:-4]) * 100 + number == nearest for video, number in zip(*names, strict=True))
