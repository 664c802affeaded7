"""A corpus of moving shapes and tiny weights, on which the retrieval script runs in seconds."""

import json
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from models import CLIP
from models.banzhaf import BanzhafModule
from scripts.make_shapes import make_corpus
from tests.conftest import SMALL
from utils.checkpoint import read_weights, save_weights


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


@dataclass(frozen=True)
class Outcome:
    """Result and output folder of a run."""

    folder: Path
    metrics: dict

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    @property
    def weights(self) -> dict[str, Tensor]:
        """Those of the last epoch."""
        return read_weights(max(self.folder.glob("pytorch_model.bin.[0-9]")))

    @property
    def terms(self) -> set[str]:
        return set(self._events().Tags()["scalars"])

    def scalars(self, name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in self._events().Scalars(name)]

    @property
    def predictions(self) -> list[dict]:
        return self._rows("predictions.jsonl")

    @property
    def captions(self) -> list[dict]:
        return self._rows("captions.jsonl")

    def _rows(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def _events(self) -> EventAccumulator:
        return EventAccumulator(str(self.folder / "tensorboard")).Reload()


def read_metrics(folder: Path) -> dict:
    """The metrics.json of a run, without the description of the run."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.pop("run")["config"]["kind"] == "run"
    return metrics


def run_launcher(command: list[str], port: int, attempts: int = 3, **options) -> subprocess.CompletedProcess:
    """Run a command whose launcher listens on a published port, again if another process took the port first."""
    for _ in range(attempts):
        wait_for_port(port)
        result = subprocess.run(command, capture_output=True, text=True, **options)
        if "EADDRINUSE" not in result.stderr:
            break
    return result


def wait_for_port(port: int, seconds: float = 300) -> None:
    """Wait until a launcher's port is free; port 0 always is."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as trial:
            try:
                trial.bind(("", port))
            except OSError:
                time.sleep(0.5)
            else:
                return
