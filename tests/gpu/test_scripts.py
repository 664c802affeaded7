"""The entry scripts and benchmarks on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import main_retrieval
from scripts.benchmark import ON_A_DEVICE
from tests.chaos.training import command_line
from tests.gpu.conftest import DEVICE, needs_cuda
from tests.retrieval_case import build_corpus

ROOT = Path(__file__).parents[2]
SMALLEST = {
    "labels": ["--pairs", "2", "--words", "6", "--frames", "4"],
    "similarity": ["--texts", "20", "--videos", "20"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("corpus"), train=16, test=8)


def train(corpus, folder, device, *words):
    flags = {"--device": device, "--batch_size": 4, "--teacher": "exact", "--output_dir": folder}
    return main_retrieval.main(command_line(corpus, *(word for pair in flags.items() for word in pair), *words))


def losses(folder):
    lines = (folder / "log.txt").read_text().splitlines()
    return [float(line.rsplit(": loss ", 1)[1]) for line in lines if ": loss " in line]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.02), ("bf16", 0.05)])
def test_training_follows_that_on_the_cpu(corpus, tmp_path, precision, tolerance):
    expected = train(corpus, tmp_path / "cpu", "cpu")
    found = train(corpus, tmp_path / "device", DEVICE, "--precision", precision)
    pairs = list(zip(losses(tmp_path / "device"), losses(tmp_path / "cpu"), strict=True))
    assert len(pairs) == 40
    worst = max(abs(one - other) / other for one, other in pairs)
    assert worst <= tolerance, worst
    assert found["t2v"].keys() == expected["t2v"].keys()


def test_a_state_moves_between_devices(corpus, tmp_path):
    train(corpus, tmp_path / "run", DEVICE, "--epochs", 1)
    metrics = train(corpus, tmp_path / "run", "cpu", "--epochs", 1, "--resume", "auto")
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert saved["t2v"] == metrics["t2v"]


@needs_cuda
def test_devices_that_are_not_there(corpus, tmp_path):
    with pytest.raises(Exception, match="GPU number 99 is not there"):
        train(corpus, tmp_path / "run", "cuda:99")


@needs_cuda
@pytest.mark.parametrize("subject", ON_A_DEVICE)
def test_benchmarks(subject):
    line = [sys.executable, ROOT / "scripts" / "benchmark.py", subject, "--device", "cuda", *SMALLEST.get(subject, [])]
    result = subprocess.run(line, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert result.returncode == 0, result.stderr[-2000:]


@needs_cuda
def test_memory_that_runs_out_is_one_line(corpus, tmp_path):
    filler = torch.empty(int(0.98 * torch.cuda.mem_get_info()[0]), dtype=torch.uint8, device=DEVICE)
    line = [str(word) for word in command_line(corpus, "--device", "cuda", "--output_dir", tmp_path / "run")]
    result = subprocess.run([sys.executable, ROOT / "main_retrieval.py", *line], capture_output=True, text=True)
    del filler
    assert result.returncode == 2 and "--grad_checkpointing" in result.stderr
