"""The packets of a file's video stream, and their time stamps, before decoding."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from utils.video.errors import VideoError
from utils.video.positions import Timeline

CONTAINERS = "mov,matroska,webm,avi,flv,asf,mpeg,mpegts,mpegvideo,m4v,h264,ogg"
"""Accepted formats, by content; playlists, which name other files and addresses, are not among them."""
MAX_PIXELS = 8192 * 4320
"""Maximum pixels of a frame: 8K."""
MAX_SECONDS = 24 * 3600
MAX_FRAMES = MAX_SECONDS * 120
COUNTED_CONTAINERS = ("avi", "m4v", "mpegvideo", "h264")
"""Containers without presentation times, which number frames in decoding order."""
RECORDED_CONTAINERS = ("mpegts", "mpeg", "m4v", "mpegvideo", "h264")
"""Containers that may begin and end anywhere."""
MAX_REORDERING = 16
"""Maximum distance between decoding and presentation order, in frames (H.264 and HEVC)."""
ASSUMED_RATE = 25.0
KEPT_BYTES = 64 << 20
"""The packets of files up to this size are kept; those of larger files are read again for decoding."""

av.logging.set_level(av.logging.PANIC)


@dataclass(frozen=True)
class Key:
    """A frame from which decoding can start: its position in presentation order, and its packet's in the file."""

    position: int
    packet: int


class PacketStream:
    """The packets of the container's default video stream.

    Attributes:
        stamps: presentation time of each frame in order, in units of `time_base`; None if the packets have none.
        is_counted: whether presentation times are guessed, and frames go by number.
        begins_whole: whether the first packet gives a frame; a recording may begin anywhere.
        first_stamp: presentation time of the first frame, None if unknown.
        timeline: by `stamps`, or by the frame rate without them.
    """

    def __init__(self, path: Path):
        self.path = path
        self.container = open_video(path)
        self.stream = best_stream(self.container, path)
        self.is_counted = self.container.format.name in COUNTED_CONTAINERS
        self.decoder = self.stream.codec_context
        self.decoder.thread_count = 1
        self.decoder.options = {"max_pixels": str(MAX_PIXELS)}
        self._check(self.stream.frames, self.decoder.width * self.decoder.height)
        self._kept: list[av.Packet] | None = [] if self.container.size <= KEPT_BYTES else None
        self._read()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def packets(self, first: int) -> Iterator[av.Packet]:
        """Packets in file order from the packet number `first` on."""
        if self._kept is not None:
            yield from islice(self._kept, first, None)
            return
        with open_video(self.path) as container:
            yield from islice(_demux(container, best_stream(container, self.path)), first, None)

    def keys_of(self, stamps: Sequence[int]) -> list[Key]:
        """Frames from which decoding may start, given the stamps in presentation order; the first packet's first."""
        keys, position = [Key(0, 0)], {stamp: place for place, stamp in enumerate(stamps)}
        for stamp, number in self._key_packets:
            if position.get(stamp, 0) > keys[-1].position:
                keys.append(Key(position[stamp], number))
        return keys

    def timeline_of(self, stamps: list) -> Timeline:
        """Timeline of decoded frames with these stamps, whose order is right even if the stamps are not."""
        if self.is_counted:
            is_as_read = self._has_clock and len(stamps) == len(self.timeline.times)
            return self.timeline if is_as_read else self._by_rate(len(stamps))
        if _is_permutation(stamps):
            return self._by_stamps(sorted(stamps))
        if self._agrees_with_rate(stamps):
            return self._by_rate(len(stamps))
        reason = "has time stamps that run backwards or are missing"
        raise VideoError.of(self.path, "unreliable", reason, "encode it again")

    @property
    def _unit(self) -> Fraction:
        """Seconds of a step of the stamps; a stream that is read always has it."""
        assert self.stream.time_base is not None
        return self.stream.time_base

    def _by_stamps(self, stamps: list[int]) -> Timeline:
        """Timeline of increasing stamps."""
        unit = self._unit
        times = (np.array(stamps) - stamps[0]) * unit.numerator / unit.denominator
        mean = (len(times) - 1) / (times[-1] or math.inf) or ASSUMED_RATE
        last = self._last_duration or round(1 / (mean * unit))
        timeline = Timeline(times, self._rate() or mean, float((stamps[-1] - stamps[0] + last) * unit))
        return self._checked(timeline if timeline.is_constant else replace(timeline, rate=mean))

    def _by_rate(self, frames: int) -> Timeline:
        """Timeline of `frames` frames at the container's frame rate."""
        if not self._rate():
            raise VideoError.of(self.path, "unreliable", "has neither time stamps nor a frame rate", "encode it again")
        return self._checked(Timeline(np.arange(frames) / self._rate(), self._rate(), frames / self._rate()))

    def _agrees_with_rate(self, stamps: list[int | None]) -> bool:
        """Whether the known stamps fit the container's frame rate, without drift.

        Program streams have one stamp for several frames, which the parser gives to one of them.
        """
        known = np.array([(number, stamp) for number, stamp in enumerate(stamps) if stamp is not None]).reshape(-1, 2)
        if not len(known):
            return False
        numbers, ticks = (known - known[0]).T
        drift = np.abs(ticks * float(self._unit) * self._rate() - numbers)
        return bool(drift.max() <= MAX_REORDERING and np.median(drift) < 1.5)

    def _read(self) -> None:
        shown, keys = [], []  # the first key is kept even if it is not shown
        is_clean = _clean_start(self.stream)
        for number, packet in enumerate(_demux(self.container, self.stream)):
            if self._kept is not None:
                self._kept.append(packet)
            if not number:
                first_time = packet.pts
                self.begins_whole = packet.is_keyframe or self.container.format.name not in RECORDED_CONTAINERS
            is_shown = not packet.is_discard and _is_shown(packet, self.decoder.name)
            if packet.is_keyframe and (is_shown or not number) and is_clean(packet):
                keys.append((packet.pts, number))
            if is_shown:
                shown.append((packet.pts, packet.dts, packet.duration))
            if len(shown) > MAX_FRAMES:
                self._check(len(shown), 0)
        if not shown:
            raise VideoError.of(self.path, "undecodable", "has no frame")
        self._order(*zip(*shown, strict=True), keys, first_time)

    def _order(
        self, stamps: Sequence, order: Sequence, durations: Sequence, keys: list, first_time: int | None
    ) -> None:
        """Set the attributes from presentation times, decoding order and durations of all packets, and the keys."""
        clock = order if self.is_counted else stamps
        self._key_packets, self._has_clock = keys, are_distinct(clock)
        self._last_duration = 0
        if self._has_clock:
            last = max(clock)
            held = (self.stream.duration or 0) - last if self.is_counted else 0
            self._last_duration = max(durations[clock.index(last)] or 0, held)
            self.timeline = self._by_stamps(sorted(clock))
        else:
            rate = self._rate() or ASSUMED_RATE  # until the frames are decoded
            self.timeline = self._checked(Timeline(np.arange(len(stamps)) / rate, rate, len(stamps) / rate))
        # The first packets may be presented after others, which may refer further back.
        is_whole = self._has_clock and are_distinct(stamps) and first_time <= min(stamps)
        self.stamps = sorted(stamps) if is_whole and keys and keys[0][1] == 0 else None
        self.first_stamp = min(stamps) if is_whole and self.begins_whole and not self.is_counted else None

    def _rate(self) -> float:
        """The container's frame rate, 0 if unknown."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def _checked(self, timeline: Timeline) -> Timeline:
        if timeline.duration > MAX_SECONDS:
            raise self._too_large(f"lasts {timeline.duration:.0f} s, {MAX_SECONDS} s are allowed")
        return timeline

    def _check(self, frames: int, pixels: int) -> None:
        if frames > MAX_FRAMES:
            raise self._too_large(f"has {frames} frames, {MAX_FRAMES} are allowed")
        if pixels > MAX_PIXELS:
            size = f"{self.decoder.width} x {self.decoder.height}"
            raise self._too_large(f"has frames of {size}, {MAX_PIXELS / 1e6:.0f} million pixels are allowed")

    def _too_large(self, excess: str) -> VideoError:
        return VideoError.of(self.path, "too large", excess, "cut or shrink the video")


def open_video(path: Path) -> av.container.InputContainer:
    """Open a file that is one of `CONTAINERS`."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    # An absolute path is never mistaken for a protocol.
    return av.open(os.path.abspath(path), options=options, metadata_errors="replace")


def best_stream(container: av.container.InputContainer, path: Path) -> av.video.stream.VideoStream:
    """The video stream that players show, not a cover picture if there is another."""
    stream = container.streams.best("video")
    if not isinstance(stream, av.video.stream.VideoStream) or stream.codec_context is None:
        raise VideoError.of(path, "undecodable", "cannot find video stream with a known codec")
    return stream


def are_distinct(stamps: Sequence[int | None]) -> bool:
    """Whether stamps are all known and different."""
    return None not in stamps and len(set(stamps)) == len(stamps)


def _is_permutation(stamps: list) -> bool:
    """Whether stamps distinguish frames, and are as nearly in order as decoders need."""
    if not are_distinct(stamps):
        return False
    moves = np.abs(np.argsort(stamps, kind="stable") - np.arange(len(stamps)))
    return bool((moves <= MAX_REORDERING).all())


def _demux(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[av.Packet]:
    return (packet for packet in container.demux(stream) if packet.size)


def _is_shown(packet: av.Packet, codec: str) -> bool:
    """Whether a packet becomes a frame; VP8 also has hidden reference pictures (RFC 6386, 9.1)."""
    return codec != "vp8" or bool(bytes(memoryview(packet)[:1])[0] & 0x10)


def _clean_start(stream: av.video.stream.VideoStream) -> Callable[[av.Packet], bool]:
    """A function that checks whether decoding can start at a packet marked as key frame."""
    if stream.codec_context.name not in CLEAN_UNITS:
        return lambda packet: True
    filters, is_clean = CLEAN_UNITS[stream.codec_context.name]
    units = BitStreamFilterContext(filters, stream)
    return lambda packet: any(is_clean(bytes(part)) for part in units.filter(av.Packet(bytes(packet))))


def _starts_h264(units: bytes) -> bool:
    """Whether NAL units of types 5 and 6 belong to an IDR picture or to an exact recovery point."""
    for unit in units.split(b"\0\0\1")[1:]:
        if unit[0] & 31 == 5:
            return True
        place = 1
        while place + 2 < len(unit):  # SEI messages (ITU-T H.264, 7.3.2.3.1): type, size, payload
            kind, size = unit[place : place + 2]
            if kind == 6:  # recovery point (D.1.8): no frames to wait for, exact match
                return unit[place + 2] >> 6 == 3
            if 255 in (kind, size):
                break
            place += 2 + size
    return False


CLEAN_UNITS = {
    "h264": ("h264_mp4toannexb,filter_units=pass_types=5-6", _starts_h264),
    "hevc": ("filter_units=pass_types=16-21", bool),
}
"""Filter and test of the NAL units of a key frame that later frames do not refer across; for HEVC IRAP units."""
