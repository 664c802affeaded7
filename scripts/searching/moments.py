"""The matching moment in a found segment, and segments that are one result.

n frames of a segment.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scripts.searching.spans import Span

FAR = 2.5
"""Frames are neighbours up to as many times the usual distance."""


@dataclass(frozen=True)
class Segment:
    """A part of a video.

    Attributes:
        file: path of the video within the indexed folder.
        start, end: seconds.
        duration: of the video, seconds, if it is known.
    """

    file: str
    start: float
    end: float
    duration: float = math.inf

    def within(self, other: "Segment") -> bool:
        """Whether it is a smaller part of another segment."""
        inside = self.file == other.file and other.start <= self.start and self.end <= other.end
        return inside and (self.start, self.end) != (other.start, other.end)

    def overlaps(self, other: "Segment") -> bool:
        """Whether two segments share a moment of one video."""
        return self.file == other.file and self.start < other.end and other.start < self.end


@dataclass(frozen=True, kw_only=True)
class Hit(Segment):
    """A segment that a query found.

    Attributes:
        similarity: by the model.
        begin, finish: seconds, of the frames that carry the match; they may reach into neighbouring segments.
        caption, tags, date: details of the video; the date as YYYY-MM-DD.
        description: what a model says of the segment, if the index has captions.
    """

    similarity: float
    begin: float
    finish: float
    caption: str = ""
    tags: tuple[str, ...] = ()
    date: str = ""
    description: str = ""


@dataclass(frozen=True)
class Candidate:
    """A segment that the model has compared with the query.

    Attributes:
        segment: which.
        similarity: by the model.
        times: (n,) seconds, increasing.
        scores: (n,) cosines of the query and each frame.
    """

    segment: Segment
    similarity: float
    times: Sequence[float]
    scores: Sequence[float]

    @property
    def peak(self) -> float:
        """Time of the frame of the largest score."""
        return max(zip(self.scores, self.times, strict=True))[1]

    @property
    def spacing(self) -> float:
        """Seconds between frames."""
        if len(self.times) == 1:
            return self.segment.end - self.segment.start
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def moments(candidates: Sequence[Candidate], count: int, *, shots: bool = False) -> list[tuple[int, float, float]]:
    """The best candidates that show different moments.

    Frames of all candidates of a video are ordered by time. The moment of a candidate is its best frame and the
    neighbours whose scores are nearer to the best one than to the median of all compared frames.

    Args:
        candidates: the most similar first.
        count: maximum number of moments.
        shots: segments are shots, and so are moments: of a long segment the most similar shot in it.

    Returns:
        Place among the candidates, begin and end of the moment in seconds.
    """
    lines: dict[str, dict[float, float]] = defaultdict(dict)
    for candidate in candidates:
        line = lines[candidate.segment.file]
        for time, score in zip(candidate.times, candidate.scores, strict=True):
            line[time] = max(score, line.get(time, score))
    background = median(score for line in lines.values() for score in line.values()) if candidates else 0.0
    found: list[tuple[int, float, float]] = []
    for place, candidate in enumerate(candidates):
        line = lines[candidate.segment.file]
        same = [entry for entry in found if candidates[entry[0]].segment.file == candidate.segment.file]
        if len(found) == count:
            break
        if not any(
            candidate.segment.overlaps(candidates[other].segment) or begin <= candidate.peak <= finish
            for other, begin, finish in same
        ):
            found.append((place, *(_shot(candidate, candidates) if shots else _moment(candidate, line, background))))
    return found


def _shot(candidate: Candidate, candidates: Sequence[Candidate]) -> Span:
    """Begin and end of the most similar segment within a candidate, or of the candidate."""
    inner = (other.segment for other in candidates if other.segment.within(candidate.segment))
    shot = next(inner, candidate.segment)
    return shot.start, shot.end


def _moment(candidate: Candidate, line: dict[float, float], background: float) -> tuple[float, float]:
    """Begin and end of the moment around the peak of a candidate."""
    times, peak, spacing = sorted(line), candidate.peak, candidate.spacing
    enough = (line[peak] + background) / 2
    place = times.index(peak)
    ends = []
    for way in (-1, 1):
        now = place
        while 0 <= now + way < len(times):
            near = abs(times[now + way] - times[now]) <= FAR * spacing
            if not near or line[times[now + way]] < enough:
                break
            now += way
        ends.append(times[now])
    return ends[0], min(ends[1] + spacing, candidate.segment.duration)
