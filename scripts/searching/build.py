"""Making an index, and bringing it up to date.

S segments of a video, N_v frames of a segment, D width.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models import HBI
from scripts.searching.segments import SegmentReader, list_videos
from scripts.searching.storage import (
    ENTRIES,
    MANIFEST,
    Entry,
    Manifest,
    read_entry,
    read_manifest,
    unusable,
    write_entry,
    write_manifest,
)
from utils.distributed import barrier, is_main, rank, world_size
from utils.errors import InputError
from utils.files import claim_folder, remove, temporary_names
from utils.logger import progress

logger = logging.getLogger("hbi")

ENTRY = r"[0-9a-f]{64}\.safetensors"
OWN_FILES = rf"{ENTRY}|{temporary_names(ENTRY)}|{temporary_names(re.escape(MANIFEST))}"


@dataclass(frozen=True)
class Changes:
    """What bringing an index up to date came to.

    Attributes:
        computed: videos that were read.
        kept: videos that were in the index and have not changed.
        removed: videos that were in the index and are gone.
        skipped: video that cannot be used -> why.
    """

    computed: int
    kept: int
    removed: int
    skipped: dict[str, str]


def build_index(model: HBI, index: Path, manifest: Manifest, workers: int = 0) -> Changes:
    """Make an index of a folder of videos, or bring it up to date: only what is new or changed is computed.

    Each video is encoded for itself and written when complete, so that the index is the same however often the work
    was cut short and however many processes share it.

    Args:
        model: encodes the frames.
        index: folder of the index.
        manifest: what the index is made of; its `files` are found here.
        workers: decoding processes of each process.

    Returns:
        The changes, the same on every process.

    Raises:
        InputError: there are no videos, the folder is no index or in the folder of the videos, or the index is damaged
            or was made of something else.
    """
    folder = Path(manifest.folder)
    claim_folder(index, "index", apart_from=[folder], flag="--index")
    files = {file: _identity(folder / file) for file in list_videos(folder)}
    manifest = manifest.model_copy(update={"files": files})
    earlier = _earlier_files(index, manifest)
    entries = {file: manifest.entry(index, file) for file in manifest.files}
    frames = manifest.sampling.max_frames
    missing = [file for file, path in entries.items() if not _is_usable(path, frames)]
    barrier()  # nothing is written before all processes have seen what is missing
    if is_main() and not (index / MANIFEST).exists():
        write_manifest(index, manifest.model_copy(update={"files": {}}))
    _encode(model, folder, missing[rank() :: world_size()], entries, manifest.sampling.model_dump(), workers)
    barrier()
    reasons = {file: read_entry(path, frames).reason for file, path in entries.items()}
    stale = {*(index / ENTRIES).iterdir(), *index.iterdir()} - set(entries.values())
    barrier()  # nothing is removed before all processes have seen what is stale
    if is_main():
        write_manifest(index, manifest)
        for path in stale:
            remove(path, OWN_FILES)
    skipped = {file: reason for file, reason in reasons.items() if reason}
    return Changes(len(missing), len(entries) - len(missing), len(earlier - entries.keys()), skipped)


def _identity(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; zeros for one that cannot be seen, which reading it then tells."""
    with suppress(OSError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    return 0, 0


def _earlier_files(index: Path, manifest: Manifest) -> set[str]:
    """The videos of the index as it is; one of another folder, model or sampling is refused."""
    if not (index / MANIFEST).exists():
        return set()
    earlier = read_manifest(index)
    for key in ("folder", "digest", "sampling"):
        old, new = getattr(earlier, key), getattr(manifest, key)
        if old != new:
            raise InputError(f"{index}: was made with {key} {old}, not {new}; give another --index, or remove this one")
    return set(earlier.files)


def _is_usable(path: Path, frames: int) -> bool:
    """Whether an entry is there, whole and of a video that can be used: others are tried again."""
    with suppress(InputError):
        return not read_entry(path, frames).reason
    return False


@torch.no_grad()
def _encode(
    model: HBI, folder: Path, files: Sequence[str], entries: dict[str, Path], sampling: dict[str, int], workers: int
) -> None:
    """Encode videos and write their entries."""
    reader = SegmentReader(folder, files, model.clip.config.resolution, **sampling)
    loader = DataLoader(reader, batch_size=None, num_workers=min(workers, len(files)))
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
    for file, reason in progress(_finished(model, loader, sampling["max_frames"], parts), "videos", logger, len(files)):
        done = parts.pop(file, [])
        if reason or not done:
            entry = unusable(reason, sampling["max_frames"], model.clip.config.embed_dim)
        else:
            entry = Entry(*map(torch.cat, zip(*done, strict=True)))
        write_entry(entries[file], entry)


def _finished(model: HBI, loader: DataLoader, max_frames: int, parts: dict[str, list]):
    """Put the tokens (1, N_v, D), mask (1, N_v) and times (1, 2) of each segment among the `parts` of its file.

    Yields:
        Each file when all of it has been read, and why it cannot be used, or "".
    """
    for file, window, content in loader:
        if window is None:
            yield file, content
            continue
        mask = (torch.arange(max_frames) < len(content)).long().unsqueeze(0)
        tokens = model.frame_tokens(content.to(model.device), mask.to(model.device))
        parts[file].append((tokens.cpu(), mask, torch.tensor([window], dtype=torch.float64)))
