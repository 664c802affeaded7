"""The C library's handling of freed memory."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MAPPING_THRESHOLD, _MAX_MAPPINGS = -1, -3, -4  # numbers of mallopt's parameters in glibc's malloc.h
_MAPPINGS = 2**15  # half of what Linux allows a process


def keep_freed_memory(below: int | None = None) -> None:
    """Let glibc keep freed memory for the next request; other C libraries are left unchanged.

    By default it maps every large tensor and unmaps it at once, and the system clears its pages again: more than half
    of the time of a training step of a small model on the CPU. The price is fragmentation: the process takes more
    memory than it uses.

    Args:
        below: bytes, at most 2**25; larger requests are still mapped and returned. None: none are.
    """
    with suppress(AttributeError, TypeError):  # no mallopt, or no access to the process's libraries
        library = ctypes.CDLL(None)
        library.mallopt(_MAX_MAPPINGS, 0 if below is None else _MAPPINGS)
        if below is not None:
            library.mallopt(_MAPPING_THRESHOLD, below)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
