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

import torch

Row = dict[str, Any]
Result = TypeVar("Result")


def count(text: str) -> int:
    """The argparse type of a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def measure_call(call: Callable[[], Result], repeats: int) -> tuple[Result, Row]:
    """Time a call, after one that is not timed, and see how far that one raises the memory in use.

    Processor time tells more than the clock on a machine that is busy with something else.

    Args:
        call: what to measure.
        repeats: how often, at least 1.

    Returns:
        What the call gave, and a row: "min s", "median s" and "mean s" as `seconds` tells, "processor s" (least, all
        threads together), and "peak MB": of the GPU if that is PyTorch's default device, else of the process on Linux.
    """
    result, peak = _peak_on_cuda(call) if _on_cuda() else _peak_memory(call)
    wall, processor = [], []
    for _ in range(repeats):
        before = time.process_time()
        wall.append(seconds(call))
        processor.append(time.process_time() - before)
    times = {"min s": min(wall), "median s": statistics.median(wall), "mean s": statistics.fmean(wall)}
    return result, {**times, "processor s": min(processor), "peak MB": peak}


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes: by events of the GPU if that is PyTorch's default device, else by the clock."""
    if not _on_cuda():
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    call()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1000


def _on_cuda() -> bool:
    return torch.get_default_device().type == "cuda"


def _peak_on_cuda(call: Callable[[], Result]) -> tuple[Result, float]:
    """The call's result, and the megabytes of the GPU that it added to those in use."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    return result, (torch.cuda.max_memory_allocated() - before) / 2**20


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
