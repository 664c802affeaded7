"""The C library keeps freed memory."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from utils.memory import keep_freed_memory
keep_freed_memory()
bytearray(50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps its own rules")
def test_freed_memory_is_used_again_without_new_pages():
    pages = int(subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True).stdout)
    assert pages < 100  # of the 12,000 that 50 MB are
