"""A corpus of moving shapes and tiny weights, on which the retrieval script runs in seconds."""

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from models import CLIP
from models.banzhaf import BanzhafModule
from scripts.make_shapes import make_corpus
from tests.conftest import SMALL
from utils.checkpoint import save_weights


@dataclass(frozen=True)
class Corpus:
    """Videos and annotations as `make_corpus` writes them into `folder`, and weights."""

    folder: Path
    clip: Path
    estimator: Path

    @property
    def annotations(self) -> Path:
        return self.folder / "anns"

    @property
    def videos(self) -> Path:
        return self.folder / "MSRVTT_Videos"


def build_corpus(folder: Path, *, train: int, test: int) -> Corpus:
    make_corpus(folder, train=train, test=test)
    torch.manual_seed(0)
    corpus = Corpus(folder, folder / "clip.pt", folder / "estimator.bin")
    save_weights(CLIP(SMALL).state_dict(), corpus.clip)
    save_weights(BanzhafModule().state_dict(), corpus.estimator)
    return corpus


def read_metrics(folder: Path) -> dict:
    """What metrics.json of a run says, but for what the run was."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.pop("run")["config"]["kind"] == "run"
    return metrics


def wait_for_port(port: int, seconds: float = 300) -> None:
    """Wait until a port that a launcher had is given back; a port of 0 is always free."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as trial:
            try:
                trial.bind(("", port))
            except OSError:
                time.sleep(0.5)
            else:
                return
