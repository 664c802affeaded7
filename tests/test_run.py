"""Start of the scripts: messages about the machine."""

import subprocess
import sys
from pathlib import Path

MORE_WORKERS_THAN_CORES = """
import os
from torch.utils.data import DataLoader
from utils.run import run
run(lambda argv: list(DataLoader(range(9), num_workers=os.cpu_count() + 1)))
"""


def test_more_workers_than_cores_are_no_page_of_warnings():
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", MORE_WORKERS_THAN_CORES]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert len(result.stderr.splitlines()) <= 1
