"""From a folder of videos to the frames of their segments.

n frames of a segment, R CLIP's resolution.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from dataloaders import files
from scripts.inspection import check_frame_rate
from utils.errors import InputError
from utils.video.decode import Video
from utils.video.transforms import ClipTransform


def list_videos(folder: Path) -> list[str]:
    """The videos in a folder and its subfolders, as sorted paths within it, "/" between their parts.

    Raises:
        InputError: there is no such folder, or no video in it.
    """
    videos = [path.relative_to(folder).as_posix() for path in files.list_videos(folder)]
    if not videos:
        raise InputError(f"{folder}: no such folder, or no video in it; give a folder of videos")
    return videos


def windows(seconds: float, length: int, overlap: int) -> list[tuple[float, float]]:
    """Cut a video into segments that overlap.

    Args:
        seconds: how long the video lasts.
        length: of a segment, seconds; a video that is not longer is one segment.
        overlap: of neighbours, seconds, less than `length`.

    Returns:
        Start and end of each, in seconds; the last one ends with the video and is longer than `overlap`.
    """
    starts = range(0, max(1, math.ceil(seconds - overlap)), length - overlap)
    return [(float(start), min(float(start + length), seconds)) for start in starts]


class SegmentReader(IterableDataset):
    """Reads videos segment by segment; loading workers share the files.

    It yields (file, (start, end), frames): seconds, and uint8 (n, 3, R, R). Behind the last segment of a file comes
    (file, None, reason): why the file cannot be used, or "".

    Args:
        folder: of the videos.
        files: paths within it.
        resolution: R.
        segment: length of a segment, seconds.
        overlap: of neighbouring segments, seconds.
        **sampling: of `utils.video.decode.decode_clip`.
    """

    def __init__(
        self, folder: Path, files: Sequence[str], resolution: int, *, segment: int, overlap: int, **sampling: int
    ):
        self.folder, self.files, self.transform = folder, files, ClipTransform(resolution)
        self.segment, self.overlap, self.sampling = segment, overlap, sampling

    def __iter__(self) -> Iterator[tuple[str, tuple[float, float] | None, Tensor | str]]:
        worker = get_worker_info()
        for file in self.files[worker.id :: worker.num_workers] if worker else self.files:
            try:
                for window, frames in self._segments(self.folder / file):
                    yield file, window, frames
                yield file, None, ""
            except InputError as error:
                yield file, None, str(error)

    def _segments(self, path: Path) -> Iterator[tuple[tuple[float, float], Tensor]]:
        """Window and frames of each segment of a video."""
        with Video(path) as video:
            check_frame_rate(video)
            seconds = None
            while seconds != video.timeline.duration:  # another one than the packets said, once frames are decoded
                seconds = video.timeline.duration
                first, *others = windows(seconds, self.segment, self.overlap)
                frames = self._frames(video, *first)
            yield first, frames
            for window in others:
                yield window, self._frames(video, *window)

    def _frames(self, video: Video, start: float, end: float) -> Tensor:
        """The frames of a segment."""
        last = end >= video.timeline.duration
        return self.transform(video.clip(start=start, end=None if last else end, **self.sampling))
