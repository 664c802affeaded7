"""Speed of several processes that fill one frame cache, with slow decoding and a slow disk."""

import multiprocessing
import os
import tempfile
import time
from argparse import ArgumentParser
from multiprocessing.synchronize import Barrier
from pathlib import Path
from unittest.mock import patch

import numpy as np

from dataloaders.frame_cache import FrameCache
from scripts.benchmarks.measure import Row, count

FRAMES = np.zeros((12, 32, 32, 3), np.uint8)


def add_arguments(parser: ArgumentParser) -> None:
    """The processes, and their delays."""
    parser.add_argument("--writers", type=count, nargs="+", default=[1, 8, 32], help="processes, of each measurement")
    parser.add_argument("--videos", type=count, default=60, help="of each process")
    parser.add_argument("--decode_ms", type=count, default=60, help="milliseconds that decoding a video takes")
    parser.add_argument("--sync_ms", type=count, default=30, help="milliseconds until the disk has a file, as on NFS")


def measure(writers: list[int], videos: int, decode_ms: int, sync_ms: int) -> list[Row]:
    """Videos a second, also as a multiple of the first row."""
    rates = [_rate(number, videos, decode_ms / 1000, sync_ms / 1000) for number in writers]
    rows = zip(writers, rates, strict=True)
    return [{"case": f"writers: {number}", "videos/s": rate, "of the first": rate / rates[0]} for number, rate in rows]


def _rate(writers: int, videos: int, decode: float, sync: float) -> float:
    context = multiprocessing.get_context("fork")  # nothing is imported again
    barrier = context.Barrier(writers + 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = [(Path(folder), number, videos, decode, sync, barrier) for number in range(writers)]
        processes = [context.Process(target=_write, args=each, daemon=True) for each in arguments]
        for process in processes:
            process.start()
        barrier.wait()
        began = time.perf_counter()
        barrier.wait()
        seconds = time.perf_counter() - began
        for process in processes:
            process.join()
        entries = len(list(Path(folder).glob("*/*.safetensors")))
    assert entries == writers * videos, f"{entries} entries of {writers * videos}"
    return entries / seconds


def _write(folder: Path, number: int, videos: int, decode: float, sync: float, barrier: Barrier) -> None:
    def make() -> np.ndarray:
        time.sleep(decode)
        return FRAMES

    cache = FrameCache(folder, 10, measure=False)
    barrier.wait()
    with patch.object(os, "fsync", lambda descriptor: time.sleep(sync)):
        for video in range(videos):
            cache.get(Path(__file__), {"video": [number, video]}, make)
    barrier.wait()
