"""Which frames of a video to take: the published rules by frame number, and the same by time."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

RELEASED_RULES = {"decord": "stepped", "cv2": "by_second"}
"""Frame rules by the libraries of the released loaders."""
TICKS = 10**6
"""Units of time in a second."""
TOLERANCE = 1e-3
"""Precision of containers' time stamps in seconds."""
CHOICE_VERSION = 2
"""Increase it with every change of the chosen frames: cached frames of other versions are not used."""


@dataclass(frozen=True)
class Timeline:
    """Presentation times of the frames of a video.

    Attributes:
        times: (n,) seconds since the first frame, increasing.
        rate: frames a second, of the container if the times agree, otherwise the mean.
        duration: seconds, up to the end of the last frame.
    """

    times: np.ndarray
    rate: float
    duration: float

    @cached_property
    def is_constant(self) -> bool:
        """Whether each frame is within half a frame of its time by the frame rate."""
        drift = np.abs(self.times * self.rate - np.arange(len(self.times)))
        return bool((drift <= 0.5).all())

    def shown_at(self, seconds: np.ndarray) -> np.ndarray:
        """Positions of the frames shown at these times."""
        return np.searchsorted(self.times, seconds + TOLERANCE, side="right") - 1


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip to take, as in the published loaders.

    "stepped" (MSR-VTT and question answering) steps through the window by the rounded number of frames between samples.
    "by_second" (ActivityNet and DiDeMo) takes `framerate` frames of each second, up to and including the second that
    starts at `end`, at a frame rate cut to an integer.

    Attributes:
        start: seconds from the first frame on; None: the beginning. Negative times count as 0.
        end: seconds; None: the end of the video. Reversed times are swapped.
        whole_seconds: cut the window to whole seconds, at least one, as published.
        framerate: samples a second, cut to an integer; at most every frame.
        max_frames: maximum number of frames.
        rule: one of the values of `RELEASED_RULES`.
        slice_framepos: of more than `max_frames` keep 0 the first, 1 the last, 2 evenly spaced ones.
    """

    start: float | None = None
    end: float | None = None
    whole_seconds: bool = False
    framerate: int = 1
    max_frames: int = 12
    rule: str = "stepped"
    slice_framepos: int = 2

    def __post_init__(self):
        if self.framerate < 1 or self.max_frames < 1:
            raise ValueError(f"cannot sample {self.max_frames} frames at {self.framerate} a second")
        if self.rule not in RELEASED_RULES.values() or self.slice_framepos not in (0, 1, 2):
            raise ValueError(f"unknown frame rule {self.rule!r} or slice {self.slice_framepos!r}")

    def window(self) -> tuple[float, float | None]:
        """Start and end in order, at least a second apart if in whole seconds; None: the end of the video."""
        cut = int if self.whole_seconds else float
        start = max(cut(self.start or 0), 0)
        if self.end is None:
            return start, None
        start, end = sorted((start, max(cut(self.end), 0)))
        return start, end + (self.whole_seconds and start == end)

    def thin(self, positions: np.ndarray) -> list[int]:
        """At most `max_frames` of the positions."""
        if len(positions) > self.max_frames:
            kept = {
                0: slice(self.max_frames),
                1: slice(-self.max_frames, None),
                2: np.linspace(0, len(positions) - 1, self.max_frames, dtype=int),
            }
            positions = positions[kept[self.slice_framepos]]
        return positions.tolist()


def choose_frames(timeline: Timeline, sampling: Sampling) -> list[int]:
    """Choose increasing positions of the frames of a clip, none if the window is after the end of the video.

    The published rules count frames, which is well defined for whole videos and windows of whole seconds at a constant
    frame rate. Otherwise the same rules choose times, and the frames shown then are taken.
    """
    if timeline.is_constant and (sampling.whole_seconds or sampling.start is sampling.end is None):
        return frame_positions(timeline.rate, len(timeline.times), sampling)
    clock = TICKS * int(sampling.framerate)  # a multiple, so that samples are on ticks
    ticks = math.ceil(timeline.duration * clock)
    moments = frame_positions(clock, ticks, replace(sampling, max_frames=max(ticks, 1)))
    return sampling.thin(np.unique(timeline.shown_at(np.array(moments) / clock)))


def frame_positions(fps: float, num_frames: int, sampling: Sampling) -> list[int]:
    """Choose increasing positions among `num_frames` frames, `fps` a second, as in the published loaders."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"cannot sample a video with {fps} frames a second")
    start, end = sampling.window()
    choose = _stepped_positions if sampling.rule == "stepped" else _positions_by_second
    positions = choose(fps, num_frames, start, end, int(sampling.framerate))
    if not sampling.whole_seconds and end is not None:
        positions = positions[positions <= end * fps]
    return sampling.thin(positions)


def _stepped_positions(fps: float, num_frames: int, start: float, end: float | None, framerate: int) -> np.ndarray:
    """The "stepped" rule, before thinning to `max_frames`."""
    last = num_frames - 1 if end is None else int(min(end * fps, num_frames - 1))
    return np.arange(int(start * fps), last + 1, max(round(fps / framerate), 1))


def _positions_by_second(fps: float, num_frames: int, start: float, end: float | None, framerate: int) -> np.ndarray:
    """The "by_second" rule, before thinning to `max_frames`."""
    whole_fps = max(int(fps), 1)
    duration = math.ceil(num_frames / whole_fps)
    offsets = np.arange(0, whole_fps, max(whole_fps // framerate, 1))[:framerate]
    seconds = np.arange(start, (duration if end is None else min(end, duration)) + 1)
    positions = (seconds[:, None] * whole_fps + offsets).ravel().astype(int)
    return positions[positions < num_frames]
