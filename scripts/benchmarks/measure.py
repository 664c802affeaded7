"""Time and memory of a call, and the numbers that a subject is told."""

import ctypes
import re
import statistics
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Row = dict[str, Any]
Result = TypeVar("Result")


def count(text: str) -> int:
    """The argparse type of a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def measure_call(call: Callable[[], Result], repeats: int) -> tuple[Result, Row]:
    """Time a call, after one that is not timed, and see how far that one raises the resident memory.

    Processor time tells more than the clock on a machine that is busy with something else.

    Args:
        call: what to measure.
        repeats: how often, at least 1.

    Returns:
        What the call gave, and a row: "min s", "median s" and "mean s" by the clock, "processor s" (least, all threads
        together), and "peak MB" on Linux.
    """
    result, peak = _peak_memory(call)
    wall, processor = [], []
    for _ in range(repeats):
        before = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - before[0])
        processor.append(time.process_time() - before[1])
    seconds = {"min s": min(wall), "median s": statistics.median(wall), "mean s": statistics.fmean(wall)}
    return result, {**seconds, "processor s": min(processor), "peak MB": peak}


def _peak_memory(call: Callable[[], Result]) -> tuple[Result, float | None]:
    """The call's result, and the megabytes it added to the resident size; None where the system does not tell."""
    with suppress(AttributeError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed is given back, not used again unseen
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark falls to the present size
    except OSError:
        return call(), None
    before = _resident_size("VmRSS")
    result = call()
    return result, _resident_size("VmHWM") - before


def _resident_size(kind: str) -> float:
    """Megabytes of this process, present (VmRSS) or largest so far (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"^{kind}:\s+(\d+) kB", status, re.MULTILINE).group(1)) / 1024
