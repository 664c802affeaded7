"""Reading PyTorch's zip archives as data: no code in them is run."""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import InputError, one_line

STORAGE_TYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


def entry_names(path: Path) -> list[str]:
    """List the entries of an archive.

    Raises:
        InputError: its directory is damaged, entries overlap, or one other than code is compressed: PyTorch compresses
            only code, and a small compressed file could fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise InputError(f"{path}: damaged archive ({error}); fetch it again") from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED and "/code/" not in entry.filename:
            raise InputError(f"{path}: its entry {entry.filename} is compressed, refused; save it again with PyTorch")
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise InputError(f"{path}: damaged archive (its entries overlap); fetch it again")
    return [entry.filename for entry in entries]


def is_torchscript(names: Sequence[str]) -> bool:
    """Whether an archive with these entries was written by `torch.jit.save`."""
    return any("/code/" in name or name.endswith("constants.pkl") for name in names)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript module by name, as in `torch.jit.load(path).state_dict()`.

    Plain tensor attributes of a scripted module count as buffers; traced modules, as OpenAI's, have none.

    Raises:
        InputError: the archive is damaged, or holds other objects than a module's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            data = next(name for name in archive.namelist() if re.fullmatch("[^/]+/data.pkl", name))
            module = _ModuleUnpickler(archive, data.removesuffix(".pkl")).load()
        return dict(_named_tensors(module))
    except Exception as error:  # damaged bytes can raise anything
        raise InputError(f"{path}: damaged TorchScript archive ({one_line(error)}); fetch it again") from error


class _Module:
    """A module with the attributes of the archive."""


class _ModuleUnpickler(pickle._Unpickler):  # the one in C would reserve as much memory as a damaged index asks for
    """Builds modules, tensors and plain values, and refuses everything else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}.pkl")))
        self.archive = archive
        self.folder = folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "collections": {"OrderedDict": OrderedDict},
            "torch": STORAGE_TYPES,
            "torch._utils": {"_rebuild_tensor_v2": _view},
        }
        if module.partition(".")[0] == "__torch__":
            return _Module
        if module == "torch.jit._pickle":  # typed lists, which hold no tensors of a state dict
            return _nothing
        if name not in known.get(module, {}):
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return known[module][name]

    def persistent_load(self, pid: tuple[str, torch.dtype, str, str, int]) -> Tensor:
        _, dtype, key, *_ = pid  # the device does not matter, the size is that of the entry
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.folder}/{key}"))
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _view(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # which checks the bounds


def _nothing(*_: Any) -> None:
    return None


def _named_tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _named_tensors(value, f"{prefix}{name}.")
