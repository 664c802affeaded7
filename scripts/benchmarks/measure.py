"""Time and memory of a call, and the sizes of a subject."""

import ctypes
import re
import statistics
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

Row = dict[str, Any]
Result = TypeVar("Result")
STATISTICS = {"min s": min, "median s": statistics.median, "mean s": statistics.fmean}


def count(text: str) -> int:
    """The argparse type of a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def measure_call(call: Callable[[], Result], repeats: int) -> tuple[Result, Row]:
    """`measure_in_turns` of one call."""
    return measure_in_turns({"": call}, repeats)[""]


def measure_in_turns(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[Any, Row]]:
    """Time calls in turns, so that changes of the machine's speed affect all of them equally.

    Each is first called without timing, to measure its memory. Processor time is more reliable than the clock on a
    busy machine.

    Args:
        calls: what to measure, by name.
        repeats: how often each, at least 1.

    Returns:
        For each call its result and a row: "min s", "median s" and "mean s" by `seconds`, "processor s" (minimum, all
            threads), and "peak MB": of the GPU if that is PyTorch's default device, else of the process on Linux.
    """
    first = {name: _peak_on_cuda(call) if _on_cuda() else _peak_memory(call) for name, call in calls.items()}
    wall, processor = {name: [] for name in calls}, {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            before = time.process_time()
            wall[name].append(seconds(call))
            processor[name].append(time.process_time() - before)
    measured = {}
    for name, (result, peak) in first.items():
        times = {label: of(wall[name]) for label, of in STATISTICS.items()}
        measured[name] = result, {**times, "processor s": min(processor[name]), "peak MB": peak}
    return measured


def seconds(call: Callable[[], Any]) -> float:
    """Duration of a call: by events of the GPU if that is PyTorch's default device, else by the clock."""
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
    """The call's result, and the megabytes of the GPU that it needed in addition."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    return result, (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak_memory(call: Callable[[], Result]) -> tuple[Result, float | None]:
    """The call's result, and the megabytes it added to the resident size; None if the system does not report it."""
    with suppress(AttributeError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)  # return freed memory, whose reuse would not be counted
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the high-water mark
    except OSError:
        return call(), None
    before = resident_size("VmRSS")
    result = call()
    return result, resident_size("VmHWM") - before


def resident_size(kind: str) -> float:
    """Megabytes of this process, present (VmRSS) or largest so far (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"^{kind}:\s+(\d+) kB", status, re.MULTILINE).group(1)) / 1024
