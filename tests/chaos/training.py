"""A short training of main_retrieval.py, in processes that share the imports of this one and may be killed."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import main_retrieval
from tests.retrieval_case import Corpus
from tests.test_distributed import free_port
from utils.run import run

# One process imports for all: a new process would spend more time on imports than on training.
FORK = multiprocessing.get_context("fork")


def command_line(corpus: Corpus, *words: str) -> list[str]:
    """A training of a tiny model with augmentation, and evaluations after each third step and each epoch."""
    flags = {
        "--do_train": 1, "--base_encoder": corpus.clip, "--anno_path": corpus.annotations,
        "--video_path": corpus.videos, "--batch_size": 2, "--batch_size_val": 4, "--max_words": 12, "--max_frames": 2,
        "--workers": 1, "--n_display": 1, "--epochs": 2, "--lr": 1e-3, "--coef_lr": 0.1,
    }
    return [*(str(word) for flag, value in flags.items() for word in (flag, value)), *map(str, words)]


def start(words: Sequence[str], log: Path, processes: int = 1) -> list[multiprocessing.Process]:
    """Run the command line in separate processes, as a launcher does; their output is appended to the file `log`."""
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(processes):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(FORK.Process(target=_run, args=(words, log, environment)))
        started[-1].start()
    return started


def _run(words: Sequence[str], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = ["main_retrieval.py", *words]
    run(main_retrieval.main)
