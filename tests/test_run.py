"""Start of the scripts: messages about the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

MORE_WORKERS_THAN_CORES = """
import os
from torch.utils.data import DataLoader
from utils.run import run
run(lambda argv: list(DataLoader(range(9), num_workers=os.cpu_count() + 1)))
"""
ROOT = Path(__file__).parents[1]
PRINT = "from utils.run import run; run(lambda argv: [print('line') for _ in range({lines})])"


def test_more_workers_than_cores_are_no_page_of_warnings():
    command = [sys.executable, "-c", MORE_WORKERS_THAN_CORES]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(result.stderr.splitlines()) <= 1


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_stops_early_is_no_traceback(lines):
    command = [sys.executable, "-c", PRINT.format(lines=lines)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "-c: the output was closed\n"
    assert process.returncode == 141
