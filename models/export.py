"""A model as a folder or on the Hub: model.safetensors, config.json, model card."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import safetensors.torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from pydantic import JsonValue

from models.card import CARD, card_values
from models.loading import build_with_weights
from models.recipe import PRESETS
from utils.checkpoint import read_weights, released_state, sha256
from utils.config import CONFIG, REMEDY, RunConfig, find_config, options_of_run
from utils.errors import InputError, one_line
from utils.files import MARKER, OUTPUTS, atomic_write, claim_folder
from utils.schema import Settings, validated
from utils.texts import read_json

WEIGHTS = "model.safetensors"
README = "README.md"
BEST = "pytorch_model.bin.best."
MAX_CONFIG = 16 * 2**20
"""Maximum bytes of config.json."""
HUB_NAME = r"[\w.-]+/[\w.-]+"
Exported = TypeVar("Exported", bound="HubModel")


class ExportConfig(Settings):
    """The config.json of an export; no key of it grants trust.

    Attributes:
        kind: distinguishes the file from a run's.
        method: a key of `models.METHODS`.
        options: all keywords of the method, as for `models.load_model`.
        quick_gelu: whether the towers have OpenAI's activation.
        answers: of a model for question answering, in the order of their labels.
        run: that trained the model; None if unknown, or if the model's options have changed since.
    """

    kind: Literal["export"] = "export"
    method: str
    options: dict[str, JsonValue]
    quick_gelu: bool
    answers: list[str] | None
    run: RunConfig | None


class HubModel(
    PyTorchModelHubMixin, library_name="pytorch", license="apache-2.0", tags=["text-video-retrieval"],
    model_card_template=CARD,
):  # fmt: skip
    """Base class of models that can be saved as a folder, pushed to the Hub and loaded from either."""

    source: Path | None = None
    """File of the weights; the run next to it is written to config and card while the weights are the same."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write the folder; options as for `PyTorchModelHubMixin.save_pretrained`.

        Raises:
            InputError: the folder cannot be written, or holds files that are not the project's.
        """
        claim_folder(save_directory, "export", names=rf"{OUTPUTS}|{re.escape(README)}", flag="--output")
        return super().save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the folder; options as for `PyTorchModelHubMixin.push_to_hub`."""
        options = {"ignore_patterns": [MARKER], **options}
        return super().push_to_hub(repo_id, **options)

    def _save_pretrained(self: Any, save_directory: Path) -> None:
        state = {name: tensor.contiguous() for name, tensor in released_state(self).items()}
        config = export_config(self)
        card = card_values(self, config.run, metrics_of(self.source) if config.run else None)
        files = {
            CONFIG: config.model_dump_json(indent=1).encode(),
            README: str(self.generate_model_card(**card)).encode(),
            WEIGHTS: safetensors.torch.save(state, metadata={"format": "pt"}),
        }
        for name, content in files.items():
            with atomic_write(save_directory / name, "wb") as file:
                file.write(content)

    @classmethod
    def _from_pretrained(cls: Any, *, model_id: str, device: Any = "cpu", **given: Any) -> Any:
        hub = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        folder = Path(model_id) if Path(model_id).is_dir() else fetch(model_id, **{x: given[x] for x in hub})
        config, state = read_config(folder), read_weights(folder / WEIGHTS)
        if (config.method, config.answers is not None) != (cls.method, hasattr(cls, "answer")):
            kind = f"{config.method}{' for questions' * (config.answers is not None)}"
            raise InputError(f"{model_id}: a model of the method {kind}, not a {cls.__name__}; use models.load_model")
        options = {name: value for name, value in given.items() if name not in (*hub, *ExportConfig.model_fields)}
        options = options_of_config(config, cls.Options, folder / WEIGHTS) | options
        kind = {"quick_gelu": config.quick_gelu, "answers": config.answers}
        return build_with_weights(cls, state, folder / WEIGHTS, **kind, **options).to(device).eval()


def export_config(model: Any) -> ExportConfig:
    """Describe a model."""
    names = {recipe: name for name, recipe in PRESETS.items()}
    options = asdict(model.options) | {"recipe": names.get(model.recipe) or asdict(model.recipe)}
    options = json.loads(json.dumps(options))  # tuples become lists
    run = find_config(model.source) if model.source and has_weights_of(model, model.source) else None
    return ExportConfig(
        method=model.method,
        options=options,
        quick_gelu=model.clip.config.quick_gelu,
        answers=list(getattr(model, "answers", ())) or None,
        run=run if run and run.options == options else None,
    )


def has_weights_of(model: Any, source: Path) -> bool:
    """Whether a model has the weights of a file."""
    state, read = released_state(model), read_weights(source)
    return state.keys() <= read.keys() and all(tensor.equal(read[name].to(tensor)) for name, tensor in state.items())


def metrics_of(weights: Path) -> Mapping[str, Any] | None:
    """The metrics.json next to weights, if it was computed from them."""
    path = weights.parent / "metrics.json"
    metrics = read_json(path) if path.exists() else {}
    checkpoint = metrics.get("run", {}).get("checkpoint") or {}
    return metrics if checkpoint.get("sha256") == sha256(weights) else None


def read_config(folder: str | Path) -> ExportConfig:
    """Read what `HubModel.save_pretrained` wrote.

    Raises:
        InputError: there is no such file, or it is not of this form.
    """
    path = Path(folder) / CONFIG
    return validated(ExportConfig, read_json(path, MAX_CONFIG), path, "give the folder of an export, or export again")


def options_of_config(config: ExportConfig | RunConfig, options: Any, weights: Path) -> dict[str, Any]:
    """The keywords of a model; `options` is its method's `Options`. Unknown or missing ones are an InputError."""
    missing = {field.name for field in fields(options)} - config.options.keys()
    if missing and isinstance(config, ExportConfig):
        raise InputError(f"{weights.parent / CONFIG}: options.{min(missing)}: Field required; {REMEDY}")
    return options_of_run(config, options, weights)


def find_checkpoint(checkpoint: str | Path) -> tuple[Path, ExportConfig | RunConfig | None]:
    """The file of a model's weights, and the config next to it.

    `checkpoint` is that file, the folder of an export or of a run (then its best weights), or USER/MODEL on the Hub.

    Raises:
        InputError: there is no such model.
    """
    folder = find_folder(checkpoint)
    if folder is None:
        return Path(checkpoint), find_config(checkpoint)
    best = sorted(folder.glob(f"{BEST}*"), key=lambda path: int(path.name.removeprefix(BEST)))
    if best and not (folder / WEIGHTS).exists():
        return best[-1], find_config(best[-1])
    return folder / WEIGHTS, read_config(folder)


def find_folder(checkpoint: str | Path) -> Path | None:
    """The folder of a model, on this machine or from the Hub; None if the name is that of a file."""
    path = Path(checkpoint)
    if path.is_dir():
        return path
    is_file = path.exists() or path.parent.is_dir() or not re.fullmatch(HUB_NAME, str(checkpoint))
    return None if is_file else fetch(str(checkpoint))


def fetch(name: str, **options: Any) -> Path:
    """The folder of the model USER/MODEL of the Hub, from the cache if offline or with HF_HUB_OFFLINE=1.

    Raises:
        InputError: there is none, or it cannot be reached.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS], **options))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: no such file or folder, and no model of the Hub or its cache ({one_line(error, 160)}); check the "
            "name and the connection"
        ) from error


def model_digest(checkpoint: str | Path) -> str:
    """SHA-256 of a checkpoint, or over those of the two files of a folder, as 64 hexadecimal digits."""
    weights, config = find_checkpoint(checkpoint)
    if not isinstance(config, ExportConfig) or Path(checkpoint) == weights:
        return sha256(weights)
    return hashlib.sha256((sha256(weights.parent / CONFIG) + sha256(weights)).encode()).hexdigest()
