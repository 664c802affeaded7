"""Reading the frames of the segments of videos.

M frames of some segments, R CLIP's resolution.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from dataloaders import files
from scripts.inspection import check_frame_rate
from scripts.searching.about import Sampling
from scripts.searching.spans import Span, longer, shots, windows
from utils.checkpoint import sha256
from utils.errors import InputError
from utils.video import positions
from utils.video.decode import Video
from utils.video.transforms import ClipTransform

TOGETHER = 16
"""Segments of a video that are decoded and encoded together."""


@dataclass(frozen=True)
class Part:
    """Some segments of a video.

    Attributes:
        file: path within the folder.
        spans: start and end of each segment, seconds.
        times: of the frames of each segment, seconds.
        frames: uint8 (M, 3, R, R), of all segments in order.
    """

    file: str
    spans: list[Span]
    times: list[list[float]]
    frames: Tensor


@dataclass(frozen=True)
class Finished:
    """The end of a video.

    Attributes:
        file: path within the folder.
        reason: why it is unusable, "" if it is usable.
        content: SHA-256 of the file.
        duration: seconds.
    """

    file: str
    reason: str = ""
    content: str = ""
    duration: float = 0.0


def list_videos(folder: Path) -> list[str]:
    """The videos in a folder and its subfolders, as sorted relative paths with "/".

    Raises:
        InputError: there is no such folder, or no video in it.
    """
    videos = [path.relative_to(folder).as_posix() for path in files.list_videos(folder)]
    if not videos:
        raise InputError(f"{folder}: no such folder, or no video in it; give a folder of videos")
    return videos


class SegmentReader(IterableDataset):
    """Reads videos; loading workers share the files. It yields the `Part`s of a file, then `Finished`.

    Args:
        folder: of the videos.
        files: paths within it.
        resolution: R.
        sampling: which segments and frames.
    """

    def __init__(self, folder: Path, files: Sequence[str], resolution: int, sampling: Sampling):
        self.folder, self.files, self.transform = folder, files, ClipTransform(resolution)
        self.sampling = sampling

    def __iter__(self) -> Iterator[Part | Finished]:
        worker = get_worker_info()
        for file in self.files[worker.id :: worker.num_workers] if worker else self.files:
            try:
                content = sha256(self.folder / file)
                with Video(self.folder / file) as video:
                    check_frame_rate(video)
                    yield from self._parts(file, video)
                    yield Finished(file, "", content, video.timeline.duration)
            except InputError as error:
                yield Finished(file, str(error))

    def _parts(self, file: str, video: Video) -> Iterator[Part]:
        """The segments of a video, `TOGETHER` at a time."""
        seconds = None
        while seconds != video.timeline.duration:  # decoding may correct the duration
            seconds = video.timeline.duration
            spans = self._spans(video)
            self._frames(video, *spans[0])
        for first in range(0, len(spans), TOGETHER):
            some = spans[first : first + TOGETHER]
            frames, times = zip(*(self._frames(video, *span) for span in some), strict=True)
            yield Part(file, some, list(times), torch.cat(frames))

    def _spans(self, video: Video) -> list[Span]:
        """The segments of a video, then longer ones."""
        size = video.timeline.duration, self.sampling.segment, self.sampling.overlap
        spans = shots(video.path, *size) if self.sampling.cut == "shots" else windows(*size)
        return spans + longer(spans, self.sampling.group)

    def _frames(self, video: Video, start: float, end: float) -> tuple[Tensor, list[float]]:
        """The frames of a segment, and their times."""
        last = end >= video.timeline.duration
        sampling = {"start": start, "end": None if last else end} | self.sampling.of_frames()
        frames = self.transform(video.clip(**sampling))
        chosen = positions.choose_frames(video.timeline, positions.Sampling(**sampling))
        return frames, video.timeline.times[chosen].tolist()
