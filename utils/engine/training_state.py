"""The state of a training run on disk, from which it resumes as if it had never stopped.

`training_state/step_N/state.pt`, next to the released-format weights, holds tensors and numbers. `state.json`, written
last, holds its SHA-256, the step and the arguments. A folder without a matching state.json is damaged.
"""

import argparse
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from utils.checkpoint import save_weights, sha256
from utils.errors import InputError
from utils.files import atomic_write, remove, temporary_names
from utils.gather import gather_shards

# If one of these differs, the state does not fit, or the batches already seen were others.
DECISIVE = (
    "method", "stage", "center", "diffusion_steps", "noise_schedule",
    "recipe", "agg_module", "num_hidden_layers", "interaction", "num_levels", "reconstruct", "datatype", "msrvtt_split",
    "labels", "game", "decoder_layers", "retrieval_weight", "seed", "batch_size", "questions_per_clip",
    "captions_per_clip", "gradient_accumulation_steps",
)  # fmt: skip
STATE_FILES = r"state\.(json|pt)"
VISIBLE_WITHIN = 20.0
"""Seconds until a file that one process has written must be visible to all."""
# May differ between starts of a run.
PASSING = ("resume", "local_rank", "debug", "command", "notes")


class TrainingStates:
    """The newest `keep` states in a folder."""

    def __init__(self, folder: str | Path, keep: int):
        self.folder, self.keep = Path(folder), keep

    def save(self, step: int, tensors: Mapping, arguments: Mapping, processes: int) -> None:
        """Write the state after `step` batches, and remove older ones beyond `keep` and all later ones.

        `tensors` must be readable by `torch.load(weights_only=True)`.

        Raises:
            InputError: the folder cannot be written or the disk is full; earlier states are unchanged.
        """
        folder = self.path(step)
        description = folder / "state.json"
        remove(description, r"state\.json")
        digest = save_weights(tensors, folder / "state.pt")
        kept = {name: value for name, value in arguments.items() if name not in PASSING}
        with atomic_write(description) as file:
            json.dump({"step": step, "processes": processes, "sha256": digest, "arguments": kept}, file, indent=2)
        steps = self._steps()
        kept = [other for other in steps if other <= step][: self.keep]  # later ones are damaged
        for other in set(steps) - set(kept):
            self._remove(self.path(other))

    @staticmethod
    def _remove(folder: Path) -> None:
        """Remove a state; a folder that holds anything else stays."""
        for file in sorted(folder.iterdir()):  # state.json first: without it the rest is no state
            remove(file, STATE_FILES) or remove(file, temporary_names(STATE_FILES))
        with suppress(OSError):
            folder.rmdir()

    def find(self, logger: logging.Logger) -> Path | None:
        """The folder of the newest intact state; damaged ones are logged."""
        for step in self._steps():
            try:
                check_state(self.path(step))
            except InputError as error:
                logger.warning("%s: left out, the state before is taken", error)
            else:
                return self.path(step)
        return None

    def _steps(self) -> list[int]:
        """The steps of all states, intact or not, the newest first."""
        matches = (re.fullmatch(r"step_(\d+)", path.name) for path in self.folder.glob("step_*"))
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def path(self, step: int) -> Path:
        """The folder of the state after `step`."""
        return self.folder / f"step_{step}"


def check_state(folder: str | Path) -> dict:
    """The state.json of the state in `folder`; a missing or damaged state is an InputError."""
    folder = Path(folder)
    try:
        description = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        whole = description["sha256"] == sha256(folder / "state.pt")
    except FileNotFoundError as error:
        raise InputError(f"{folder}: holds no complete training state; give a step_N folder to --resume") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'state.json'}: is damaged; give another state to --resume") from error
    if not whole:
        raise InputError(f"{folder / 'state.pt'}: is damaged, its SHA-256 is another; give another state to --resume")
    return description


def read_state(folder: str | Path, size: int | None = None) -> dict:
    """The tensors and numbers of a checked state, on the CPU; nothing else is unpickled.

    Waits until the file has `size` bytes, as the main process sees it: network disks may show it later here.

    Raises:
        InputError: they cannot be read.
    """
    path = Path(folder) / "state.pt"
    deadline = time.monotonic() + VISIBLE_WITHIN
    while size is not None and _size(path) != size and time.monotonic() < deadline:
        time.sleep(0.2)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: cannot be read; all processes must share --output_dir") from error


def _size(path: Path) -> int:
    """Bytes of a file, -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def check_same_state(state: Mapping, folder: Path) -> None:
    """Raise an InputError on all processes if they have read different states."""
    total = sum(tensor.sum(dtype=torch.float64) for tensor in state["model"].values())
    found = gather_shards(torch.tensor([[state["done"], float(total)]], dtype=torch.float64))
    if not torch.equal(found, found[:1].expand_as(found)):
        raise InputError(f"{folder}: the processes see different states there; all must share --output_dir")


def compare_arguments(then: Mapping, now: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Report by `say` each argument that differs from the state's; a decisive one is an InputError."""
    given = {name: value for name, value in json.loads(json.dumps(vars(now))).items() if name not in PASSING}
    differing = [name for name in sorted(given.keys() | then.keys()) if given.get(name) != then.get(name)]
    for name in differing:
        difference = f"--{name}: {then.get(name)} in the state, {given.get(name)} now"
        if name in DECISIVE:
            raise InputError(f"{difference}; give the same, or another --output_dir for a new run")
        say(difference)
