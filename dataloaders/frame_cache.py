"""Sampled frames kept on disk, so that a video is decoded once and not in every epoch.

n frames of a clip, H and W their height and width.
"""

import fcntl
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from utils.errors import InputError
from utils.files import atomic_write, claim_folder, is_regular, open_own, remove, temporary_names

FORMS = ("lossless", "compact")
JPEG_QUALITY = 95
ENTRY = r"[0-9a-f]{64}\.safetensors"

logger = logging.getLogger("hbi")


class FrameCache:
    """Frames by what they were made of, for any number of processes at once.

    An entry is a file, written under another name and renamed when complete, so that a process that is killed leaves no
    half entry. What would not fit is not kept: in epochs that visit every video once, putting one out for another gains
    nothing. Entries whose video or settings changed are never found again; remove the folder to be rid of them.

    Args:
        folder: for the entries; created if missing.
        gigabytes: 10^9 bytes that the entries may take.
        form: "lossless" keeps the frames bit by bit, "compact" as JPEG of quality 95 without colour subsampling.
        videos: folder of the videos, which the cache must lie apart from.

    Raises:
        InputError: the folder cannot be written, or is not the cache's own; see `utils.files.claim_folder`.
        ValueError: an unknown form.
    """

    def __init__(self, folder: str | Path, gigabytes: float, form: str = "lossless", videos: str | Path | None = None):
        if form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, got {form!r}")
        self.folder = claim_folder(
            folder, "frame cache", apart_from=[videos] if videos else [], flag="--frame_cache"
        )
        self.form, self.capacity = form, int(gigabytes * 1e9)
        try:
            with self._locked_count() as count:
                count.write(self._measure())
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); give another --frame_cache") from error

    def get(self, path: Path, settings: dict[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
        """The frames of a video, made only if they are not kept yet.

        Args:
            path: the video; another size or time of change makes it another one.
            settings: all else that the frames depend on, of types that JSON knows.
            make: gives the frames, uint8 (n, H, W, 3).

        Returns:
            What `make` gave now or before, uint8 (n, H, W, 3); in compact form nearly so, from the first time on.
        """
        try:
            status = path.stat()
        except OSError:
            return make()
        identity = [str(path.resolve()), status.st_size, status.st_mtime_ns, self.form, settings]
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        entry = self.folder / name[:2] / f"{name}.safetensors"
        if is_regular(entry):
            try:
                return _unpack(load_file(entry))
            except (OSError, SafetensorError, KeyError, ValueError, cv2.error):  # damaged by something else
                remove(entry, ENTRY)
        packed = _pack(make(), self.form)
        if self.capacity:
            self._keep(entry, save(packed))
        return _unpack(packed)

    def _keep(self, entry: Path, content: bytes) -> None:
        """Write an entry if there is space for it; if there is none, that is said once and nothing more is kept."""
        try:
            with self._locked_count() as count:
                if entry.exists():
                    return
                used = count.read() + len(content)
                if used <= self.capacity:
                    with atomic_write(entry, "wb") as file:
                        file.write(content)
                    count.write(used)
                    return
            reason = f"{self.folder}: has no space within {self.capacity / 1e9:g} GB; raise --frame_cache_gb"
        except (OSError, InputError) as error:
            reason = str(error)
        self.capacity = 0
        logger.warning("%s; what is not there yet is decoded each time", reason)

    @contextmanager
    def _locked_count(self) -> Iterator["_Count"]:
        """The number of bytes taken; no other process reads or writes it, or adds an entry, meanwhile."""
        with open_own(self.folder / "bytes", "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield _Count(file)
            file.flush()

    def _measure(self) -> int:
        """Bytes that the entries take, after what a killed process never renamed is removed."""
        entries = [file for file in self.folder.glob("[0-9a-f][0-9a-f]/*") if is_regular(file)]
        for file in self.folder.glob("[0-9a-f][0-9a-f]/.*"):
            remove(file, temporary_names(ENTRY))
        return sum(file.stat().st_size for file in entries if re.fullmatch(ENTRY, file.name))


class _Count:
    """A number in an open file."""

    def __init__(self, file):
        self.file = file

    def read(self) -> int:
        """The number."""
        self.file.seek(0)
        number = self.file.read(20)
        return int(number) if number.isdigit() else 0

    def write(self, number: int) -> None:
        """Put another number in its place."""
        self.file.truncate(0)
        self.file.write(b"%d" % number)


def _pack(frames: np.ndarray, form: str) -> dict[str, np.ndarray]:
    """Frames as the arrays of an entry."""
    if form == "lossless":
        return {"frames": np.ascontiguousarray(frames)}
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    # OpenCV takes blue first.
    pictures = [cv2.imencode(".jpg", frame[..., ::-1], options)[1] for frame in frames]
    return {"pictures": np.concatenate(pictures), "lengths": np.array([len(picture) for picture in pictures])}


def _unpack(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Frames from the arrays of an entry."""
    if "frames" in arrays:
        frames = arrays["frames"]
    else:
        pictures, lengths = arrays["pictures"], arrays["lengths"]
        if pictures.dtype != np.uint8 or lengths.dtype.kind not in "iu" or pictures.ndim != 1 or lengths.ndim != 1:
            raise ValueError("types")
        if lengths.min() < 1 or lengths.sum() != len(pictures):
            raise ValueError("pictures")
        pictures = np.split(pictures, lengths.cumsum()[:-1])
        pictures = [cv2.imdecode(picture, cv2.IMREAD_COLOR) for picture in pictures]
        frames = np.stack([cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for picture in pictures])
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError("frames")
    return frames
