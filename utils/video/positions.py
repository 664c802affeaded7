"""Which frames of a video to take: the published rules, and the same by time.

n frames of a video.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

FRAME_RULES = ("decord", "cv2")
TICKS = 10**6
"""Of a second, in which moments are chosen."""
TOLERANCE = 1e-3
"""Seconds, to which containers round time stamps."""
CHOICE_VERSION = 2
"""To be raised with every change of the frames that are chosen: kept frames of another version are not served."""


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are presented.

    Attributes:
        times: (n,) seconds since the first frame, increasing.
        rate: frames a second: as the container gives it if the times agree, otherwise the mean.
        duration: seconds, up to the end of the last frame.
    """

    times: np.ndarray
    rate: float
    duration: float

    @cached_property
    def is_constant(self) -> bool:
        """Whether each frame is within half a frame of where the frame rate has it."""
        drift = np.abs(self.times * self.rate - np.arange(len(self.times)))
        return bool((drift <= 0.5).all())

    def shown_at(self, seconds: np.ndarray) -> np.ndarray:
        """Positions of the frames presented at these times."""
        return np.searchsorted(self.times, seconds + TOLERANCE, side="right") - 1


def choose_frames(
    timeline: Timeline,
    *,
    start: float | None = None,
    end: float | None = None,
    whole_seconds: bool = False,
    framerate: int = 1,
    max_frames: int = 12,
    rule: str = "decord",
    slice_framepos: int = 2,
) -> list[int]:
    """Choose the frames of a clip.

    The published rules count frames, which is well defined for whole videos and windows of whole seconds at a constant
    frame rate. Everything else follows the same rules by time: the frames presented at the chosen moments.

    Args:
        timeline: of the video.
        start: seconds; None for the beginning.
        end: seconds; None for the end of the video.
        whole_seconds: cut the window to whole seconds, as the published loaders do.
        framerate: as in `frame_positions`.
        max_frames: as in `frame_positions`.
        rule: as in `frame_positions`.
        slice_framepos: as in `frame_positions`.

    Returns:
        Increasing positions, none if the window lies behind the video.
    """
    window = {"start": start, "end": end, "whole_seconds": whole_seconds}
    limit = {"max_frames": max_frames, "slice_framepos": slice_framepos}
    if timeline.is_constant and (whole_seconds or start is end is None):
        return frame_positions(timeline.rate, len(timeline.times), **window, framerate=framerate, rule=rule, **limit)
    clock = TICKS * int(framerate)  # a multiple, so that samples lie on ticks
    ticks = math.ceil(timeline.duration * clock)
    moments = frame_positions(clock, ticks, **window, framerate=framerate, rule=rule, max_frames=max(ticks, 1))
    return _thin(np.unique(timeline.shown_at(np.array(moments) / clock)), **limit)


def frame_positions(
    fps: float,
    num_frames: int,
    *,
    start: float | None = None,
    end: float | None = None,
    whole_seconds: bool = True,
    framerate: int = 1,
    max_frames: int = 12,
    rule: str = "decord",
    slice_framepos: int = 2,
) -> list[int]:
    """Choose the frames of a clip as the published loaders do.

    Negative times are cut to 0 and reversed times swapped. "decord" (published for MSR-VTT and question answering)
    steps from the window's first frame to its last by the rounded number of frames in a sample. "cv2" (published for
    ActivityNet and DiDeMo) takes `framerate` frames of each second, up to and including the second that starts at
    `end`, at a frame rate cut to an integer.

    The published code fails where a video has fewer frames a second than requested; here every frame is taken.

    Args:
        fps: average frame rate of the video, frames a second.
        num_frames: frames in the video.
        start: seconds; None for the beginning.
        end: seconds; None for the end of the video.
        whole_seconds: cut the window to whole seconds, an empty one lasts one; "cv2" stops at `end` otherwise.
        framerate: samples a second, cut to an integer.
        max_frames: maximum number of positions.
        rule: one of `FRAME_RULES`.
        slice_framepos: what to keep of too many: 0 the first ones, 1 the last ones, 2 evenly spread ones.

    Returns:
        At most `max_frames` increasing positions in [0, num_frames); none if the window lies behind the video.

    Raises:
        ValueError: a frame rate that is not positive, `framerate` or `max_frames` below 1, an unknown rule or slice.
    """
    if not (math.isfinite(fps) and fps > 0 and framerate >= 1 and max_frames >= 1):
        raise ValueError(f"cannot sample {max_frames} frames at {framerate} a second of a video with {fps} a second")
    if rule not in FRAME_RULES or slice_framepos not in (0, 1, 2):
        raise ValueError(f"unknown frame rule {rule!r} or slice {slice_framepos!r}")
    start, end = _window(start, end, whole_seconds)
    choose = _stepped_positions if rule == "decord" else _positions_by_second
    positions = choose(fps, num_frames, start, end, int(framerate))
    if not whole_seconds and end is not None:
        positions = positions[positions <= end * fps]
    return _thin(positions, max_frames, slice_framepos)


def _window(start: float | None, end: float | None, whole_seconds: bool) -> tuple[float, float | None]:
    """The window in order, and not empty if it is in whole seconds; None for an end that is the video's."""
    cut = int if whole_seconds else float
    start = max(cut(start or 0), 0)
    if end is None:
        return start, None
    start, end = sorted((start, max(cut(end), 0)))
    return start, end + (whole_seconds and start == end)


def _stepped_positions(fps: float, num_frames: int, start: float, end: float | None, framerate: int) -> np.ndarray:
    """The "decord" rule, before too many are thinned out."""
    last = num_frames - 1 if end is None else int(min(end * fps, num_frames - 1))
    return np.arange(int(start * fps), last + 1, max(round(fps / framerate), 1))


def _positions_by_second(fps: float, num_frames: int, start: float, end: float | None, framerate: int) -> np.ndarray:
    """The "cv2" rule, before too many are thinned out."""
    whole_fps = max(int(fps), 1)
    duration = math.ceil(num_frames / whole_fps)
    offsets = np.arange(0, whole_fps, max(whole_fps // framerate, 1))[:framerate]
    seconds = np.arange(start, (duration if end is None else min(end, duration)) + 1)
    positions = (seconds[:, None] * whole_fps + offsets).ravel().astype(int)
    return positions[positions < num_frames]


def _thin(positions: np.ndarray, max_frames: int, slice_framepos: int) -> list[int]:
    """At most `max_frames` of the positions."""
    if len(positions) > max_frames:
        kept = {
            0: slice(max_frames),
            1: slice(-max_frames, None),
            2: np.linspace(0, len(positions) - 1, max_frames, dtype=int),
        }
        positions = positions[kept[slice_framepos]]
    return positions.tolist()
