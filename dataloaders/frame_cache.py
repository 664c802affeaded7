"""Cache of sampled frames on disk, so that a video is decoded once and not in every epoch.

n frames of a clip, H and W their height and width.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dataloaders.opencv import cv2
from utils.errors import InputError
from utils.files import atomic_write, claim_folder, is_regular, open_own, remove, temporary_names

FORMS = ("lossless", "compact")
JPEG_QUALITY = 95
ENTRY = r"[0-9a-f]{64}\.safetensors"
DAY = 24 * 3600
DAMAGES = SafetensorError, KeyError, ValueError, cv2.error
"""What reading damaged frames may raise."""

logger = logging.getLogger("hbi")


class FrameCache:
    """Frames by video and settings, for any number of processes.

    An entry is written under another name, without sync, and renamed when complete; one that a failing machine cut
    short is made again. Processes wait for each other only to rename and count an entry. A full cache takes no more
    entries: eviction gains nothing in epochs that visit every video once. Entries of changed videos or settings stay
    until the folder is removed.

    Args:
        folder: for the entries; created if missing.
        gigabytes: maximum size of all entries, in 10^9 bytes.
        form: "lossless" keeps the frames bit by bit, "compact" as JPEG of quality 95 without colour subsampling.
        videos: folder of the videos, which must be outside the cache.
        measure: count the entries again, as one process of a run should.
    """

    def __init__(
        self,
        folder: str | Path,
        gigabytes: float,
        form: str = "lossless",
        *,
        videos: str | Path | None = None,
        measure: bool = True,
    ):
        if form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, got {form!r}")
        self.folder = claim_folder(folder, "frame cache", apart_from=[videos] if videos else [], flag="--frame_cache")
        self.form, self.capacity = form, int(gigabytes * 1e9)
        try:
            with self._locked_count() as count:
                _write(count, self._measure() if measure else self._used(count))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); give another --frame_cache") from error

    def get(self, path: Path, settings: dict[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
        """The frames of a video, uint8 (n, H, W, 3), from the cache or made and kept.

        The key is path, size and time of change of the video, and `settings`, which JSON can hold. In compact form even
        frames just made are returned as the JPEG has them.
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
                return unpack(load_file(entry))
            except (OSError, *DAMAGES):  # cut short, or damaged otherwise
                remove(entry, ENTRY)
        packed = pack(make(), self.form)
        if self.capacity and not os.path.lexists(entry):
            self._keep(entry, save(packed))
        return unpack(packed)

    def _keep(self, entry: Path, content: bytes) -> None:
        """Write an entry if it fits; otherwise warn once and keep nothing more."""
        try:
            # The lock is held only to rename and count the entry.
            with ExitStack() as lock, atomic_write(entry, "wb", sync=False) as file:
                file.write(content)
                file.flush()
                count = lock.enter_context(self._locked_count())
                used = self._used(count) + (0 if entry.exists() else len(content))
                if used > self.capacity:
                    gigabytes = f"{self.capacity / 1e9:g} GB"
                    raise InputError(f"{self.folder}: has no space within {gigabytes}; raise --frame_cache_gb")
                _write(count, used)
        except (OSError, InputError) as error:
            self.capacity = 0
            logger.warning("%s; what is not there yet is decoded each time", error)

    @contextmanager
    def _locked_count(self) -> Iterator[IO[bytes]]:
        """The locked file of the number of bytes taken."""
        with open_own(self.folder / "bytes", "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file
            file.flush()

    def _used(self, count: IO[bytes]) -> int:
        """Bytes taken, from the file or measured."""
        number = count.read(20)
        return int(number) if number.isdigit() else self._measure()

    def _measure(self) -> int:
        """Remove temporary files older than a day, and return the bytes that the entries take."""
        entries = [file for file in self.folder.glob("[0-9a-f][0-9a-f]/*") if is_regular(file)]
        for file in self.folder.glob("[0-9a-f][0-9a-f]/.*"):
            if is_regular(file) and time.time() - file.stat().st_mtime > DAY:
                remove(file, temporary_names(ENTRY))
        return sum(file.stat().st_size for file in entries if re.fullmatch(ENTRY, file.name))


def _write(count: IO[bytes], number: int) -> None:
    count.truncate(0)
    count.write(b"%d" % number)


def pack(frames: np.ndarray, form: str) -> dict[str, np.ndarray]:
    """Put frames, uint8 (n, H, W, 3), into the arrays of a safetensors file, in one of `FORMS`."""
    if form == "lossless":
        return {"frames": np.ascontiguousarray(frames)}
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    # OpenCV's channels are BGR.
    pictures = [cv2.imencode(".jpg", frame[..., ::-1], options)[1] for frame in frames]
    return {"pictures": np.concatenate(pictures), "lengths": np.array([len(picture) for picture in pictures])}


def unpack(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The frames that `pack` took; arrays of another content are one of `DAMAGES`."""
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
        frames = np.stack([cv2.cvtColor(np.asarray(picture), cv2.COLOR_BGR2RGB) for picture in pictures])
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError("frames")
    return frames
