"""A model as a folder: config.json, with all that the weights do not say, and model.safetensors."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
from pydantic import Field

from models.hbi import HBI
from models.recipe import PRESETS, Recipe
from utils.checkpoint import released_state, sha256
from utils.errors import InputError
from utils.files import OUTPUTS, atomic_write, claim_folder
from utils.schema import Settings, validated
from utils.texts import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MAX_CONFIG = 16 * 2**20
"""Bytes of config.json that are read at most."""
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1000)]
OPTIONS = ("text_rates", "video_rates", "rates", "trained_levels", "kl", "skl", "teacher", "recipe")


def save_folder(model: HBI, folder: str | Path) -> None:
    """Write a model so that `models.load_model` reads it from the folder alone.

    Args:
        model: for retrieval or question answering.
        folder: made if missing.

    Raises:
        InputError: it cannot be written.
    """
    if not isinstance(model, HBI):
        raise InputError(f"{type(model).__name__}: only models of HBI are exported so far")
    recipes = {recipe: name for name, recipe in PRESETS.items()}
    config = {
        "model_type": "hbi",
        "quick_gelu": model.clip.config.quick_gelu,
        "answers": list(getattr(model, "answers", ())) or None,
        **{name: getattr(model.options, name) for name in OPTIONS},
        "rates": list(model.rates),
        "recipe": recipes.get(model.recipe) or asdict(model.recipe),
    }
    claim_folder(folder, "export", names=OUTPUTS, flag="--output")
    with atomic_write(Path(folder) / CONFIG) as file:
        json.dump(config, file, indent=1)
    with atomic_write(Path(folder) / WEIGHTS, "wb") as file:
        state = {name: tensor.contiguous() for name, tensor in released_state(model).items()}
        file.write(safetensors.torch.save(state, metadata={"format": "pt"}))


def model_digest(checkpoint: str | Path) -> str:
    """SHA-256 of a checkpoint, or over those of the two files of a folder, as 64 hexadecimal digits."""
    if not Path(checkpoint).is_dir():
        return sha256(checkpoint)
    return hashlib.sha256("".join(sha256(Path(checkpoint) / name) for name in (CONFIG, WEIGHTS)).encode()).hexdigest()


class ExportedModel(Settings):
    """What config.json holds; no key of it grants trust."""

    model_type: Literal["hbi"]
    quick_gelu: bool
    answers: list[str] | None
    text_rates: tuple[Share, Share]
    video_rates: tuple[Share, Share]
    rates: tuple[Rate, Rate, Rate]
    trained_levels: Literal[1, 2, 3]
    kl: Rate
    skl: Rate
    teacher: Literal["estimator", "exact", "shuffled", "constant"]
    recipe: Literal["released", "corrected"] | Recipe


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read what `save_folder` wrote.

    Returns:
        "quick_gelu", "answers" (None for retrieval), and "options", keywords of `HBI`.

    Raises:
        InputError: there is no such file, or it is not of this form.
    """
    path = Path(folder) / CONFIG
    values = read_json(path, MAX_CONFIG)
    config = validated(ExportedModel, values, path, "give the folder of an export, or export again")
    options = {name: getattr(config, name) for name in OPTIONS}
    return {"quick_gelu": config.quick_gelu, "answers": config.answers, "options": options}
