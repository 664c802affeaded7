"""Uploaded files: received within limits, kept for some time in a private folder, read as frames."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import InputError, printable
from utils.files import claim_folder, remove
from utils.video.checks import VIDEO_SUFFIXES
from utils.video.decode import decode_clip

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_UPLOAD = 256 * 2**20
"""Maximum bytes of a file."""
KEPT = 16
"""Number of files that are kept; new ones replace the oldest."""
NAMES = r"[\w-]{22}\.\w+"
"""Regular expression of the names of kept files: a random key and the suffix."""
LONGEST_NAME = 100
"""Maximum letters of a file's name."""
MAX_PIXELS = 2**26
"""Maximum pixels of a picture."""


class Uploads:
    """The uploaded files, in a private `folder`."""

    def __init__(self, folder: Path):
        self.folder = claim_folder(folder, "uploads")
        self._names: OrderedDict[str, str] = OrderedDict()

    async def receive(self, name: str, content: AsyncIterator[bytes]) -> str:
        """Store a file, and return its key for later requests.

        Raises:
            InputError: it is no picture or video by its name, or too large.
        """
        name = Path(printable(name).replace("\\", "/")).name
        suffix = Path(name).suffix.lower()
        if suffix not in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES) or len(name) > LONGEST_NAME or name.startswith("."):
            raise InputError(f"{name[:LONGEST_NAME]}: is no picture or video by its name; choose another file")
        key, size = secrets.token_urlsafe(16), 0
        path = self.folder / f"{key}{suffix}"
        try:
            with path.open("xb") as file:
                async for part in content:
                    size += len(part)
                    if size > MAX_UPLOAD:
                        raise InputError(f"{name}: is larger than {MAX_UPLOAD >> 20} MB; choose a smaller file")
                    await asyncio.to_thread(file.write, part)
        except BaseException:
            remove(path, NAMES)
            raise
        self._names[key] = name
        while len(self._names) > KEPT:
            oldest = next(iter(self._names))
            remove(self.path(oldest), NAMES)
            del self._names[oldest]
        return key

    def name(self, key: str) -> str:
        """The original name of a file.

        Raises:
            InputError: no such file is kept.
        """
        if key not in self._names:
            raise InputError("no such file was received, or it is no longer kept: choose a picture or a video")
        return self._names[key]

    def path(self, key: str) -> Path:
        """Path of a file; raises as `name`."""
        return self.folder / f"{key}{Path(self.name(key)).suffix.lower()}"

    def frames(self, key: str, **sampling: int) -> np.ndarray:
        """A picture as one frame, or frames of a video: uint8 (n, H, W, 3).

        Args:
            key: of the file.
            **sampling: keywords of `decode_clip`.

        Raises:
            InputError: no such file is kept, or it cannot be decoded.
        """
        path = self.path(key)
        if path.suffix in PICTURE_SUFFIXES:
            return _read_picture(path, self.name(key))[None]
        return decode_clip(path, **sampling)


def _read_picture(path: Path, name: str) -> np.ndarray:
    """A picture as it is shown, uint8 (H, W, 3)."""
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(f"{name}: has more than {MAX_PIXELS} pixels; choose a smaller picture")
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except InputError:
        raise
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: cannot be read as a picture; choose another file") from error
