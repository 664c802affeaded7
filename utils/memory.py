"""What the C library does with memory that is freed."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MOST_MAPPINGS = -1, -4  # numbers of mallopt's parameters in glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next request; another C library is left as it is.

    By default it maps every large tensor anew and gives it back at once, and the system clears each page of it anew:
    more than half of the time of a training step of a small model on the CPU.
    """
    with suppress(AttributeError, TypeError):  # no mallopt, or no library of this process to look into
        library = ctypes.CDLL(None)
        library.mallopt(_MOST_MAPPINGS, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
