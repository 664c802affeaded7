"""Where the page plays a segment."""

from pathlib import Path
from urllib.parse import quote

from scripts.searching.query import Segment, VideoIndex
from scripts.webdemo.playback import is_played, picture_begins
from utils.errors import InputError
from utils.video.decode import Video


def servable(index: VideoIndex, name: str) -> Path | None:
    """The file of a used video, if it lies below the folder of the index whatever links lead to it."""
    if not index.holds(name):
        return None
    try:
        path = index.file(name).resolve(strict=True)
        folder = Path(index.manifest.folder).resolve(strict=True)
    except OSError:
        return None
    return path if folder in path.parents and path.is_file() else None


def address(index: VideoIndex, segment: Segment) -> str | None:
    """Where a segment is played, None if its video is not served or damaged.

    Seconds of a segment count from the first frame, those of a browser from where sound or picture begins.
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
