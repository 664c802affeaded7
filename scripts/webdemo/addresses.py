"""Addresses at which the page plays segments."""

from pathlib import Path
from urllib.parse import quote

from scripts.searching.query import Segment, VideoIndex
from scripts.webdemo.playback import is_played, picture_begins
from utils.errors import InputError
from utils.video.decode import Video


def servable(index: VideoIndex, name: str) -> Path | None:
    """The file of an indexed video, if it is below the indexed folder after resolving links."""
    if not index.holds(name):
        return None
    try:
        path = index.file(name).resolve(strict=True)
        folder = Path(index.manifest.folder).resolve(strict=True)
    except OSError:
        return None
    return path if folder in path.parents and path.is_file() else None


def address(index: VideoIndex, segment: Segment) -> str | None:
    """Address of a segment, None if its video is not served or damaged.

    Seconds of a segment count from the first frame, a browser's from the beginning of sound or picture.
    """
    path = servable(index, segment.file)
    if path is None:
        return None
    if not is_played(path):
        try:
            with Video(path):
                pass
        except InputError:
            return None
        return f"/converted/{quote(segment.file)}?start={segment.start:g}&end={segment.end:g}"
    begins = picture_begins(path)
    return f"/video/{quote(segment.file)}#t={segment.start + begins:g},{segment.end + begins:g}"
