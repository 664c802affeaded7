"""A model as a folder: config.json, which tells all that the weights do not, and model.safetensors."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch

from models.hbi import HBI
from models.recipe import PRESETS, Recipe
from utils.checkpoint import released_state, sha256
from utils.errors import InputError
from utils.files import atomic_write
from utils.texts import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
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


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read what `save_folder` wrote.

    Returns:
        "quick_gelu", "answers" (None for retrieval), and "options", keywords of `HBI`.

    Raises:
        InputError: there is no such file, or it is not of this form.
    """
    path = Path(folder) / CONFIG
    config = read_json(path)
    if not isinstance(config, Mapping) or config.get("model_type") != "hbi":
        raise InputError(f"{path}: describes no model of HBI; give the folder of an export")
    try:
        options = {name: config[name] for name in OPTIONS}
        if isinstance(options["recipe"], Mapping):
            options["recipe"] = Recipe(**options["recipe"])
        elif options["recipe"] not in PRESETS:
            raise ValueError(f"unknown recipe {options['recipe']!r}")
        _check(config, options)
        return {"quick_gelu": config["quick_gelu"], "answers": config["answers"], "options": options}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: has no proper {error}; export the model again") from error


def _check(config: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first setting of another kind than it must be."""
    answers = config["answers"]
    kinds = {
        "quick_gelu": isinstance(config["quick_gelu"], bool),
        "answers": answers is None or _is_list(answers, str),
        "text_rates": _is_list(options["text_rates"], float, int, length=2),
        "video_rates": _is_list(options["video_rates"], float, int, length=2),
        "rates": _is_list(options["rates"], float, int, length=3),
        "trained_levels": options["trained_levels"] in (1, 2, 3),
        "kl": isinstance(options["kl"], float | int),
        "skl": isinstance(options["skl"], float | int),
        "teacher": options["teacher"] in ("estimator", "exact"),
    }
    wrong = [name for name, right in kinds.items() if not right]
    if wrong:
        raise ValueError(repr(wrong[0]))


def _is_list(value: Any, *kinds: type, length: int | None = None) -> bool:
    """Whether a value is a list of such things, of that length if given."""
    return (
        isinstance(value, list)
        and (length is None or len(value) == length)
        and all(isinstance(each, kinds) for each in value)
    )
