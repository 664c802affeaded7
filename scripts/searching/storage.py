"""The folder of an index: a manifest, and a file for each video.

S segments of a video, N_v frames of a segment, D width.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from utils.errors import InputError
from utils.files import atomic_write
from utils.video.checks import VIDEO_SUFFIXES
from utils.video.decode import DECODER

FORMAT = 1
MANIFEST = "manifest.json"
ENTRIES = "videos"
NOTE = "note"  # one key alone, because the order of several in a file is not fixed
AGAIN = "run scripts/search.py index again"


@dataclass(frozen=True)
class Manifest:
    """What an index was made of.

    Attributes:
        folder: of the videos.
        model: keywords of `models.load_model`.
        digest: `models.hub.model_digest` of the model.
        sampling: keywords of `SegmentReader`, which say what frames are taken.
        max_words: tokens of a query.
        files: path of each video within the folder -> its size in bytes and its time of change in nanoseconds.
        format: version of this layout.
    """

    folder: str
    model: Mapping[str, Any]
    digest: str
    sampling: Mapping[str, int]
    max_words: int
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    format: int = FORMAT

    def entry(self, index: Path, file: str) -> Path:
        """Where the index keeps a video: another one after a change of the video, the model or the sampling."""
        made_of = [file, *self.files[file], self.digest, self.model["base_encoder"], dict(self.sampling), DECODER]
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return index / ENTRIES / f"{name}.safetensors"


@dataclass(frozen=True)
class Entry:
    """One video in an index.

    Attributes:
        tokens: (S, N_v, D) float32, of the frames.
        mask: (S, N_v) int64.
        times: (S, 2) float64, start and end of the segments in seconds.
        reason: why the video cannot be used, "" if it can; then S is 0.
    """

    tokens: Tensor
    mask: Tensor
    times: Tensor
    reason: str = ""


def read_manifest(index: Path) -> Manifest:
    """Read the manifest of an index.

    Raises:
        InputError: there is none, or it is damaged or of another version.
    """
    path = index / MANIFEST
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        if manifest.format != FORMAT:
            raise InputError(f"{path}: is of version {manifest.format}, not {FORMAT}; remove {index} and index again")
        if not all(map(_is_inside, manifest.files)) or not all(
            len(identity) == 2 and all(type(number) is int for number in identity)
            for identity in manifest.files.values()
        ):
            raise ValueError("files")
        Path(manifest.folder, manifest.model["checkpoint"])
        dict(manifest.sampling)
    except OSError as error:
        raise InputError(f"{index}: no index of videos is there; make one with scripts/search.py index") from error
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: is damaged; remove it and {AGAIN}") from error
    return manifest


def _is_inside(file: str) -> bool:
    """Whether a path names a video and stays within its folder."""
    path = PurePosixPath(file)
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_absolute() and ".." not in path.parts


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Write the manifest of an index.

    Raises:
        InputError: the folder cannot be written.
    """
    with atomic_write(index / MANIFEST) as file:
        json.dump(asdict(manifest), file, indent=1)


def read_entry(path: Path) -> Entry:
    """Read one video of an index.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            note = json.loads(file.metadata()[NOTE])
            entry = Entry(*(file.get_tensor(name) for name in ("tokens", "mask", "times")), note["reason"])
        if note["digest"] != _digest(entry):
            raise ValueError("digest")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is missing or damaged; {AGAIN}") from error
    return entry


def write_entry(path: Path, entry: Entry) -> None:
    """Write one video of an index, the same bytes for the same entry.

    Raises:
        InputError: the folder cannot be written.
    """
    tensors = {name: getattr(entry, name).cpu().contiguous() for name in ("tokens", "mask", "times")}
    note = json.dumps({"digest": _digest(entry), "reason": entry.reason})
    with atomic_write(path, "wb") as file:
        file.write(save(tensors, {NOTE: note}))


def _digest(entry: Entry) -> str:
    """SHA-256 of what an entry holds."""
    digest = hashlib.sha256(entry.reason.encode())
    for tensor in (entry.tokens, entry.mask, entry.times):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def unusable(reason: str, frames: int, width: int) -> Entry:
    """The entry of a video that cannot be used; N_v and D for the shapes."""
    shapes = ((0, frames, width), torch.float32), ((0, frames), torch.int64), ((0, 2), torch.float64)
    return Entry(*(torch.zeros(shape, dtype=dtype) for shape, dtype in shapes), reason)
