"""Reading and writing weights safely."""

import hashlib
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from utils.archives import entry_names, is_torchscript, read_torchscript
from utils.errors import InputError, one_line
from utils.files import atomic_write

logger = logging.getLogger("hbi")

# SHA-256 of OpenAI's TorchScript archives; others are opened only with --trust_checkpoint.
OPENAI_DIGESTS = {
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
}
ARCHIVE_SIZES = {"input_resolution", "context_length", "vocab_size"}
WRAPPERS = ("state_dict", "model", "module")
DATA_PARALLEL = "module."  # prefix of the keys of a model that was saved inside DistributedDataParallel

def released_names(model: nn.Module) -> dict[str, str]:
    """The name in files of each parameter and buffer, by the model's `released_name` if it has one."""
    spell = getattr(model, "released_name", str)
    return {name: spell(name) for name in model.state_dict()}


def released_state(model: nn.Module) -> dict[str, Tensor]:
    """State of `model` by the names in files, on the CPU, without `model.unsaved`."""
    names, unsaved = released_names(model), getattr(model, "unsaved", ())
    return {names[name]: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name not in unsaved}


class _HashedWriter:
    """Writes to a file and hashes the bytes."""

    def __init__(self, file: IO[bytes]):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def save_weights(state: Mapping, path: str | Path) -> str:
    """Write a name -> tensor map, plain for weights, nested for a training state, atomically; returns its SHA-256.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    with atomic_write(path, "wb") as file:
        writer = _HashedWriter(file)
        try:
            torch.save(dict(state), writer)  # ty: ignore[invalid-argument-type]  # write and flush are all it needs
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's error about its unfinished archive hides it
                raise error.__context__ from None
            raise
    return writer.digest.hexdigest()


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load a state dict in the released spelling, strictly except `model.optional`; float16 is cast to float32.

    Raises:
        InputError: names `source`, and every missing, unexpected or mis-shaped key.
    """
    names = released_names(model)
    ours = {names[name]: (name, tensor) for name, tensor in model.state_dict().items()}
    optional = getattr(model, "optional", frozenset()) - state.keys()
    problems = [f"missing {name}" for name in ours if name not in state and name not in optional]
    problems += [f"unexpected {name}" for name in state if name not in ours]
    problems += [
        f"{name} is {tuple(tensor.shape)}, not {tuple(ours[name][1].shape)}"
        for name, tensor in state.items()
        if name in ours and tensor.shape != ours[name][1].shape
    ]
    broken = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if broken:
        raise InputError(f"{source}: {len(broken)} weights are not finite, first {broken[0]}; give another checkpoint")
    if problems:
        raise InputError(
            f"{source}: weights of another architecture, {len(problems)} of {len(ours)} keys differ: "
            + "; ".join(problems)
            + ". Choose the file or the options (--base_encoder, --agg_module, --interaction) that belong together"
        )
    found = {ours[name][0]: tensor.to(ours[name][1].dtype) for name, tensor in state.items()}
    model.load_state_dict(found, strict=not optional)


def read_weights(path: str | Path, *, trust: bool = False) -> dict[str, Tensor]:
    """Read name -> tensor from safetensors, a plain state dict or an OpenAI TorchScript archive.

    Only tensors are unpickled. A TorchScript archive is opened only if OpenAI published its SHA-256, or with `trust`.
    A state dict under "state_dict", "model" or "module" is unwrapped, and a common prefix "module." removed, with a
    warning.

    Raises:
        InputError: missing, damaged, not a plain map of tensors, or an archive that is not trusted.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    names = entry_names(path) if zipfile.is_zipfile(path) else []
    if not names and _is_archive_head(path):
        raise InputError(f"{path}: truncated or damaged archive; fetch it again")
    if is_torchscript(names):
        state = _read_torchscript(path, trust)
    else:
        state = _unwrap(_read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path), path)
    if not isinstance(state, Mapping) or not all(map(_is_plain, state, state.values())):
        raise InputError(f"{path}: holds no plain map of names to tensors; give the model's state dict")
    return dict(state)


def _unwrap(state: Any, path: Path) -> Any:
    """The state dict inside a checkpoint of other training code."""
    while isinstance(state, Mapping) and (
        key := next((key for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
    ):
        logger.warning("%s: only its state dict, under %r, is read", path, key)
        state = state[key]
    if isinstance(state, Mapping) and state and all(str(name).startswith(DATA_PARALLEL) for name in state):
        logger.warning("%s: the prefix %r of its keys is removed", path, DATA_PARALLEL)
        state = {str(name).removeprefix(DATA_PARALLEL): tensor for name, tensor in state.items()}
    return state


def _is_plain(name: Any, tensor: Any) -> bool:
    """Whether an entry is a name and a tensor of real numbers that are all stored in the file."""
    return (
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex())
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, by their extremes, which takes a tenth of the time of `isfinite` on each."""
    return not tensor.is_floating_point() or not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; check the path")
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: damaged safetensors file ({error}); fetch it again") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"holds {refused[1]}" if refused else one_line(error, 120)
        raise InputError(
            f"{path}: not a plain file of tensors, refused ({reason}); give a state dict or safetensors"
        ) from error


def _is_archive_head(path: Path) -> bool:
    """Whether the file begins as a zip archive, even if it is truncated."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _read_torchscript(path: Path, trust: bool) -> dict[str, Tensor]:
    if not trust and sha256(path) not in OPENAI_DIGESTS.values():
        raise InputError(
            f"{path}: a TorchScript archive with an unknown SHA-256; fetch it from OpenAI again, "
            "or pass --trust_checkpoint if you know where it comes from"
        )
    return {name: tensor for name, tensor in read_torchscript(path).items() if name not in ARCHIVE_SIZES}
