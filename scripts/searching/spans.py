"""Division of a video: fixed windows or shots, and longer spans of neighbours.

A span is a start and an end in seconds.
"""

import math
from itertools import pairwise
from pathlib import Path

import av
from scenedetect import AdaptiveDetector, SceneManager, VideoOpenFailure
from scenedetect.backends.pyav import VideoStreamAv

from utils.video.errors import VideoError

Span = tuple[float, float]
CUTS = ("windows", "shots")


def windows(seconds: float, length: int, overlap: int) -> list[Span]:
    """Cut a video into spans that overlap.

    Args:
        seconds: duration of the video.
        length: of a span, seconds; a video that is not longer is one span.
        overlap: of neighbours, seconds, less than `length`.

    Returns:
        The spans; the last one ends with the video and is longer than `overlap`.
    """
    starts = range(0, max(1, math.ceil(seconds - overlap)), length - overlap)
    return [(float(start), min(float(start + length), seconds)) for start in starts]


def shots(path: Path, seconds: float, length: int, overlap: int) -> list[Span]:
    """Cut a video at abrupt changes of the picture; a shot longer than `length` is cut into windows.

    Raises:
        VideoError: the file cannot be decoded.
    """
    manager = SceneManager()
    manager.add_detector(AdaptiveDetector())
    try:
        manager.detect_scenes(VideoStreamAv(str(path), threading_mode="NONE"))
    except (av.FFmpegError, VideoOpenFailure, OSError) as error:
        raise VideoError.of(path, "undecodable", "cannot be cut into shots", "give --cut windows") from error
    cuts = [start.seconds for start, _ in manager.get_scene_list()]
    bounds = [0.0, *(cut for cut in cuts if 0 < cut < seconds), seconds]
    return [
        (start + begin, start + stop)
        for start, end in pairwise(bounds)
        for begin, stop in windows(end - start, length, overlap)
    ]


def longer(spans: list[Span], count: int) -> list[Span]:
    """Spans that each cover `count` neighbours, half of them shared with the next; none for a count below 2."""
    if count < 2 or len(spans) < 2:
        return []
    step, last = max(1, count // 2), max(1, len(spans) - count + 1)
    firsts = range(0, last + step - 1, step)
    return [(spans[first][0], spans[min(first + count, len(spans)) - 1][1]) for first in firsts]
