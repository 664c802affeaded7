"""Decoding the frames of a video by their time stamps.

n frames of a clip, H and W their height and width as shown.

The container's key frames are not trusted. The time stamps of all packets, read without decoding, give the order of
presentation. A frame is decoded from a key frame on, and every decoded frame must have the next expected stamp. If one
has not (AVI has no presentation times, streams are damaged or refresh without key frames), the whole file is decoded in
order, and the stamps of its frames are those expected from then on.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

from utils.video.checks import check_file
from utils.video.errors import VideoError
from utils.video.picture import Canvas
from utils.video.positions import CHOICE_VERSION, Sampling, Timeline, choose_frames
from utils.video.stream import MAX_REORDERING, Key, PacketStream, are_distinct

DECODER = f"PyAV {av.__version__} choice {CHOICE_VERSION}"
"""Version of the decoder, part of the key of cached frames."""

Result = TypeVar("Result")


def decode_clip(path: str | Path, **sampling: Any) -> np.ndarray:
    """Decode the sampled frames of a clip as they are shown, with one thread.

    `sampling` are fields of `positions.Sampling`.

    Returns:
        uint8 (n, H, W, 3), RGB, 1 <= n <= max_frames, rotated, mirrored and stretched as the file declares.

    Raises:
        VideoError: the file is missing, empty, truncated, no video, damaged, larger than `stream` allows, or has no
            frame in the window.
    """
    with Video(path) as video:
        return video.clip(**sampling)


class Video:
    """An open video file; its packets are read once for any number of clips."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        check_file(self.path)
        self._is_exact = False  # whether the timeline is that of the decoded frames
        with _reported(self.path):
            self._packets = PacketStream(self.path)
        self._timeline = self._packets.timeline
        self._expect(self._packets.stamps)

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *error: object) -> None:
        self._packets.close()

    def clip(self, **sampling: Any) -> np.ndarray:
        """Decode a clip; keywords, result and errors are those of `decode_clip`."""
        wanted = Sampling(**sampling)

        def stack(frames: Iterator[av.VideoFrame], positions: Sequence[int]) -> np.ndarray | None:
            canvas = Canvas(self.pixel_shape, len(positions))
            for frame in frames:
                canvas.add(frame)
            return canvas.pictures

        pictures = self.read(lambda timeline: choose_frames(timeline, wanted), stack)
        if pictures is None:
            window = f"between {wanted.start or 0:g} and {wanted.end or self.timeline.duration:g} s"
            lasts = f"the video lasts {self.timeline.duration:.1f} s"
            raise VideoError.of(self.path, "window", f"no frame {window}, {lasts}", "correct the annotation")
        return pictures

    def read(
        self,
        choose: Callable[[Timeline], list[int]],
        consume: Callable[[Iterator[av.VideoFrame], Sequence[int]], Result],
    ) -> Result:
        """Decode the frames at the increasing positions that `choose` takes of the timeline.

        Returns:
            The result of `consume` for the frames and their positions. If decoding shows that the timeline was wrong,
            both are called again for the right one.
        """
        for way in (self._from_keys, self._from_start, self._from_start):
            try:
                positions = choose(self._timeline)
                with _reported(self.path):
                    return consume(way(positions), positions)
            except _OtherTimelineError:
                continue
        raise VideoError.of(self.path, "unreliable", "gives other frames each time it is decoded", "encode it again")

    @property
    def timeline(self) -> Timeline:
        """Times of the frames, by the packets until frames have been decoded."""
        return self._timeline

    @property
    def pixel_shape(self) -> Fraction | None:
        """Width of a pixel divided by its height, None if unknown."""
        return self._packets.stream.sample_aspect_ratio

    def _expect(self, stamps: list[int] | None) -> None:
        """Set the expected stamps of the frames in order; None if they do not distinguish frames."""
        self._stamps, self._keys = stamps, [] if stamps is None else self._packets.keys_of(stamps)

    def _from_keys(self, positions: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Frames from the nearest key frames; a stamp that is not the expected one is an _OtherTimelineError."""
        if self._stamps is None:
            raise _OtherTimelineError
        run, reached = None, -1
        for position in positions:
            key = self._keys[bisect_right(self._keys, position, key=attrgetter("position")) - 1]
            if run is None or key.position > reached + 1:
                run, reached = self._run(key), key.position - 1
            while reached < position:
                frame, reached = next(run, None), reached + 1
                if frame is None or frame.pts != self._stamps[reached]:
                    raise _OtherTimelineError
            yield frame

    def _run(self, key: Key) -> Iterator[av.VideoFrame]:
        """Intact frames from a key frame on, without those that are presented before it."""
        assert self._stamps is not None
        frames, begin = self._decoded(key.packet), self._stamps[key.position]
        try:
            first = next(frame for frame in islice(frames, MAX_REORDERING + 1) if frame.pts == begin)
            if key.packet and not first.key_frame:
                raise _OtherTimelineError
            for frame in chain([first], frames):
                if frame.is_corrupt:
                    raise _OtherTimelineError
                yield frame
        except (av.FFmpegError, StopIteration) as error:
            raise _OtherTimelineError from error

    def _from_start(self, positions: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Frames by number in decoding order, up to the end of the file until the timeline is known."""
        wanted, stamps, damaged, lost = set(positions), [], False, None
        for number, frame in enumerate(self._decoded(0)):
            stamps.append(frame.pts)
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if number in wanted:
                lost = number if damaged and lost is None else lost
                yield frame
                if self._is_exact and number == positions[-1]:
                    break
        if not self._is_exact:
            if not stamps or self._packets.first_stamp not in (None, stamps[0]):
                raise VideoError.of(self.path, "undecodable", "is damaged, its first frame is lost")
            assumed, self._timeline, self._is_exact = self._timeline, self._packets.timeline_of(stamps), True
            self._expect(stamps if are_distinct(stamps) else None)
            if not np.array_equal(assumed.times, self._timeline.times):
                raise _OtherTimelineError
        if lost is not None:
            raise VideoError.of(self.path, "undecodable", f"is damaged, its frame {lost} is lost")

    def _decoded(self, first: int) -> Iterator[av.VideoFrame]:
        """Frames in decoding order from the packet number `first` on."""
        decoder = self._packets.decoder
        decoder.flush_buffers()
        begun = False
        for packet in chain(self._packets.packets(first), [None]):
            try:
                for frame in decoder.decode(packet):
                    begun = True
                    yield frame
            except av.InvalidDataError:
                if begun or packet is None or self._packets.begins_whole:
                    raise


class _OtherTimelineError(Exception):
    """Decoded frames do not have the packets' presentation times."""


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn the decoder's errors into a VideoError."""
    try:
        yield
    except av.FFmpegError as error:
        log: Any = error.log  # level, name and message, which PyAV's stub has otherwise
        reason = log[2].strip() if log else error.strerror
        raise VideoError.of(path, "undecodable", f"cannot be decoded ({reason})") from error
