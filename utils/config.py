"""config.json, which describes a training run next to its checkpoints."""

import argparse
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from utils.distributed import world_size
from utils.errors import InputError
from utils.files import atomic_write
from utils.schema import Settings, validated
from utils.texts import parse_json, read_text

CONFIG = "config.json"
MAX_BYTES = 16 * 2**20
REMEDY = "copy the file again from the folder of the run, or remove it"
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "av")
OF_ONE_START = ("command", "notes")
"""Parsed arguments that are not flags."""


class RunConfig(Settings):
    """Description of a run.

    Attributes:
        kind: distinguishes the file from an export's.
        method: a key of `models.METHODS`.
        options: keywords of the method, as for `models.load_model`.
        quick_gelu: whether the towers have OpenAI's activation.
        flags: every flag by name, defaults included.
        command: as typed.
        processes: number of processes.
        versions: of Python and of packages.
        commit: of the project, with "-dirty" if files differ from it; None outside a git clone.
    """

    kind: Literal["run"] = "run"
    method: str
    options: dict[str, JsonValue]
    quick_gelu: bool
    flags: dict[str, JsonValue]
    command: list[str]
    processes: int
    versions: dict[str, str]
    commit: str | None


def run_config(args: argparse.Namespace, model: Any) -> RunConfig:
    """Describe a run by its arguments and its model."""
    values = {
        "method": getattr(args, "method", "hbi"),
        "options": asdict(model.options),
        "quick_gelu": model.clip.config.quick_gelu,
        "flags": {name: value for name, value in vars(args).items() if name not in OF_ONE_START},
        "command": args.command,
        "processes": world_size(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": _commit(),
    }
    return RunConfig.model_validate(json.loads(json.dumps(values, default=str)))


def write_config(config: RunConfig, folder: str | Path) -> None:
    """Write config.json into a folder; a failure is an InputError."""
    with atomic_write(Path(folder) / CONFIG) as file:
        file.write(config.model_dump_json(indent=2) + "\n")


def config_path(checkpoint: str | Path) -> Path:
    """Path of the config of a checkpoint, a file or a folder."""
    return (Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent) / CONFIG


def find_config(checkpoint: str | Path | None) -> RunConfig | None:
    """Read the config.json of the run that wrote a checkpoint, next to it or as part of an export's.

    Returns:
        None if there is none, as next to a released checkpoint, or it does not describe a run.

    Raises:
        InputError: it is malformed.
    """
    path = None if checkpoint is None else config_path(checkpoint)
    if path is None or not path.exists():
        return None
    values = parse_json(read_text(path, MAX_BYTES), path)
    if isinstance(values, Mapping) and values.get("kind") == "export":
        values = values.get("run")
    if not isinstance(values, Mapping) or values.get("kind") != "run":
        return None
    return validated(RunConfig, values, path, REMEDY)


def options_of_run(config: Any, options: Any, checkpoint: str | Path) -> dict[str, Any]:
    """The method's keywords in a run; `options` is the method's `Options`, `checkpoint` is for messages.

    Raises:
        InputError: they do not have that form.
    """
    path = Path(checkpoint).parent / CONFIG
    if unknown := config.options.keys() - {field.name for field in fields(options)}:
        raise InputError(f"{path}: options.{min(unknown)}: unknown; {REMEDY}")
    return dict(vars(validated(options, config.options, f"{path}: options", REMEDY)))


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
