"""Checks of a video file's name, and of its length against the length that its container declares.

Decoders play a truncated file as a shorter video.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from utils.video.errors import VideoError

# In order of preference if a folder has one video in several containers.
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg", ".3gp", ".ts")
EBML_MAGIC = b"\x1a\x45\xdf\xa3"


def check_file(path: Path) -> None:
    """Raise a VideoError if a file is no video by its name, missing, empty or truncated."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        remedy = f"known endings are {' '.join(VIDEO_SUFFIXES)}"
        raise VideoError.of(path, "unreadable", "is no video by its name", remedy)
    try:
        missing = missing_bytes(path)
        empty = path.stat().st_size == 0
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise VideoError.of(path, "unreadable", reason, "restore the file") from error
    if empty:
        raise VideoError.of(path, "empty", "is empty")
    if missing:
        raise VideoError.of(path, "truncated", f"is truncated, {missing} bytes are missing")


def missing_bytes(path: str | Path) -> int:
    """Number of bytes that the container declares beyond the end of the file.

    Knows MP4 and MOV (ISO 14496-12 boxes), Matroska and WebM (EBML, RFC 8794) and AVI (RIFF); other files, and those
    without a declared length, as live recordings, count as complete. A pipe or a device is an OSError.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise OSError(errno.EINVAL, "not a regular file")  # opening a pipe would block
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        file.seek(0)
        if head.startswith(EBML_MAGIC):
            end = _matroska_end(file)
        elif head.startswith(b"RIFF") and head.endswith(b"AVI "):
            end = 8 + int.from_bytes(head[4:8], "little")
            end = 0 if end == 8 + 0xFFFFFFFF else end
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            end = _media_data_end(file, size)
        else:
            end = 0
    return max(end - size, 0)


def _media_data_end(file: BinaryIO, size: int) -> int:
    """End of the last media data box; other boxes are ignored, as some writers leave junk after the last one."""
    end = position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            break
        position += length
        if kind == b"mdat":
            end = position
    return end


def _matroska_end(file: BinaryIO) -> int:
    """End of the segment after the EBML header, 0 if undeclared."""
    file.read(len(EBML_MAGIC))
    file.seek(_variable_length(file) or 0, os.SEEK_CUR)
    file.read(4)
    length = _variable_length(file)
    return 0 if length is None else file.tell() + length


def _variable_length(file: BinaryIO) -> int | None:
    """An EBML number: leading zero bits count the bytes that follow; all ones mean unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    number = int.from_bytes(first + file.read(width - 1), "big") & ((1 << 7 * width) - 1)
    return None if number == (1 << 7 * width) - 1 else number
