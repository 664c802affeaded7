"""The folder of an index: a manifest, and a file for each video.

S segments of a video, N_v frames of a segment, D width.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from utils.errors import InputError
from utils.files import atomic_write, is_regular
from utils.schema import Settings, validated
from utils.texts import read_json
from utils.video.checks import VIDEO_SUFFIXES
from utils.video.decode import DECODER

FORMAT = 2
MAX_MANIFEST = 512 * 2**20
"""Bytes of a manifest that are read at most: some millions of videos."""
MANIFEST = "manifest.json"
ENTRIES = "videos"
NOTE = "note"  # one key alone, because the order of several in a file is not fixed
AGAIN = "run scripts/search.py index again"


def _inside(file: str) -> str:
    """Check that a path names a video and stays within its folder."""
    path = PurePosixPath(file)
    if path.suffix.lower() not in VIDEO_SUFFIXES or path.is_absolute() or ".." in path.parts or "\0" in file:
        raise ValueError("names no video in the folder")
    return file


Text = Annotated[str, Field(min_length=1, max_length=4096, pattern="^[^\\x00]+$")]
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1000)]


class IndexedModel(Settings):
    """What an index says of its model: nothing that grants trust, so a foreign index runs no code.

    Attributes:
        checkpoint: where its file was.
        base_encoder: name of CLIP's weights, which determines the activation of the towers.
        method, recipe: as for `models.load_model`.
        text_rates, video_rates, rates: as for `models.load_model`.
    """

    checkpoint: Text
    base_encoder: Text | None = None
    method: Text | None = None
    recipe: Literal["released", "corrected"] | None = None
    text_rates: tuple[Share, Share] | None = None
    video_rates: tuple[Share, Share] | None = None
    rates: tuple[Rate, Rate, Rate] | None = None

    def options(self) -> dict[str, Any]:
        """Keywords of `models.load_model`."""
        return self.model_dump(exclude_none=True)


class Sampling(Settings):
    """Keywords of `SegmentReader`, which determine the frames."""

    max_frames: Annotated[int, Field(ge=1, le=1024)]
    framerate: Annotated[int, Field(ge=1, le=1000)]
    segment: Annotated[int, Field(ge=1, le=10**6)]
    overlap: Annotated[int, Field(ge=0, le=10**6)]


class Manifest(Settings):
    """What an index was made of.

    Attributes:
        folder: of the videos.
        model: see `IndexedModel`.
        digest: `models.export.model_digest` of the model.
        sampling: see `Sampling`.
        max_words: tokens of a query.
        files: path of each video within the folder -> its size in bytes and its time of change in nanoseconds.
        format: version of this layout.
    """

    folder: Text
    model: IndexedModel
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    sampling: Sampling
    max_words: Annotated[int, Field(ge=2, le=1024)]
    files: dict[Annotated[str, AfterValidator(_inside)], tuple[Number, Number]] = {}
    format: Literal[2] = FORMAT

    def entry(self, index: Path, file: str) -> Path:
        """Where the index keeps a video: another one after a change of the video, the model or the sampling."""
        sampling = self.sampling.model_dump()
        made_of = [file, *self.files[file], self.digest, self.model.base_encoder, sampling, DECODER]
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
    if not path.exists():
        raise InputError(f"{index}: no index of videos is there; make one with scripts/search.py index")
    values, remedy = read_json(path, MAX_MANIFEST), "give another --index and index again"
    if isinstance(values, dict) and values.get("format") != FORMAT:
        raise InputError(f"{path}: is not of version {FORMAT}; {remedy}")
    return validated(Manifest, values, path, remedy)


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Write the manifest of an index.

    Raises:
        InputError: the folder cannot be written.
    """
    with atomic_write(index / MANIFEST) as file:
        json.dump(manifest.model_dump(), file, indent=1)


def read_entry(path: Path, frames: int) -> Entry:
    """Read one video of an index.

    Args:
        path: the entry.
        frames: N_v that it must have.

    Raises:
        InputError: the file is missing or damaged, or of other shapes.
    """
    try:
        if not is_regular(path):
            raise ValueError("no file")
        with safe_open(path, "pt") as file:
            note = json.loads(file.metadata()[NOTE])
            shapes = [tuple(file.get_slice(name).get_shape()) for name in ("tokens", "mask", "times")]
            segments = shapes[0][0]
            if shapes != [(segments, frames, shapes[0][2]), (segments, frames), (segments, 2)]:
                raise ValueError("shapes")
            entry = Entry(*(file.get_tensor(name) for name in ("tokens", "mask", "times")), note["reason"])
        if not isinstance(entry.reason, str) or note["digest"] != _digest(entry):
            raise ValueError("digest")
        dtypes = entry.tokens.dtype, entry.mask.dtype, entry.times.dtype
        if dtypes != (torch.float32, torch.int64, torch.float64):
            raise ValueError("dtypes")
        if not (entry.tokens.isfinite().all() and entry.times.isfinite().all() and (entry.times >= 0).all()):
            raise ValueError("numbers")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
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
