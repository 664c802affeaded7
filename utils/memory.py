"""What the C library does with memory that is freed."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MAPPING_THRESHOLD, _MOST_MAPPINGS = -1, -3, -4  # numbers of mallopt's parameters in glibc's malloc.h
_MAPPINGS = 2**15  # half of what Linux allows a process


def keep_freed_memory(below: int | None = None) -> None:
    """Let glibc keep what is freed for the next request; another C library is left as it is.

    By default it maps every large tensor again and returns it at once, and the system clears each page of it again:
    more than half of the time of a training step of a small model on the CPU. What is kept lies in holes that not
    every tensor fits into, so that a process takes more memory than it uses.

    Args:
        below: bytes, at most 2**25, from which on requests are mapped and given back nonetheless; None: none are.
    """
    with suppress(AttributeError, TypeError):  # no mallopt, or no library of this process to look into
        library = ctypes.CDLL(None)
        library.mallopt(_MOST_MAPPINGS, 0 if below is None else _MAPPINGS)
        if below is not None:
            library.mallopt(_MAPPING_THRESHOLD, below)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
