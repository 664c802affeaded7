"""The video stream of a file: its packets and what they say before anything is decoded."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from utils.video.errors import VideoError
from utils.video.positions import Timeline

CONTAINERS = "mov,matroska,webm,avi,flv,asf,mpeg,mpegts,mpegvideo,m4v,h264,ogg"
"""What a file may be, by its content; playlists, which name other files and addresses, are never followed."""
MAX_PIXELS = 8192 * 4320
"""Of a frame: 8K."""
MAX_SECONDS = 24 * 3600
MAX_FRAMES = MAX_SECONDS * 120
ASSUMED_RATE = 25.0
KEPT_BYTES = 64 << 20
"""Files up to this size are read once; of larger ones the packets are read again to be decoded."""
CLEAN_UNITS = {"h264": "5", "hevc": "16-21"}
"""NAL units after which nothing refers to earlier frames: IDR of H.264, IRAP of HEVC (of frames presented later)."""

av.logging.set_level(av.logging.PANIC)


@dataclass(frozen=True)
class Key:
    """A frame from which decoding can start: its position in presentation, and its packet's in the file."""

    position: int
    packet: int


class PacketStream:
    """The packets of the video stream that is decoded, the container's default one.

    Args:
        path: a file that is one of `CONTAINERS`.

    Attributes:
        stamps: presentation time of each frame in order, in units of `time_base`; None if the packets do not say.
        keys: where decoding may start, the first packet first.
        timeline: by `stamps`, or by the frame rate without them.

    Raises:
        av.FFmpegError: the file is broken or something else.
        VideoError: there is no video in it, or more than allowed.
    """

    def __init__(self, path: Path):
        self.path = path
        self.container = open_video(path)
        self.stream = best_stream(self.container, path)
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
        """Packets in the file's order from the packet number `first` on."""
        if self._kept is not None:
            yield from islice(self._kept, first, None)
            return
        with open_video(self.path) as container:
            yield from islice(_demux(container, best_stream(container, self.path)), first, None)

    def timeline_of(self, stamps: list[int]) -> Timeline:
        """When frames of these increasing stamps are presented."""
        times = (np.array(stamps) - stamps[0]) * float(self.stream.time_base)
        rate = self._rate() or (len(times) - 1) / (times[-1] or math.inf) or 1.0
        last = self._durations.get(stamps[-1]) or 0
        return self._checked(Timeline(times, rate, float(times[-1] + (last * self.stream.time_base or 1 / rate))))

    def timeline_by_rate(self, frames: int) -> Timeline:
        """When this many frames are presented at the container's frame rate."""
        rate = self._rate()
        if not rate:
            raise VideoError.of(self.path, "unreliable", "has neither time stamps nor a frame rate", "encode it again")
        return self._checked(Timeline(np.arange(frames) / rate, rate, frames / rate))

    def _read(self) -> None:
        """Read all packets."""
        stamps, keys = [], []
        self._durations: dict[int, int] = {}
        is_clean = _clean_start(self.stream)
        number = -1
        for number, packet in enumerate(_demux(self.container, self.stream)):
            if self._kept is not None:
                self._kept.append(packet)
            if packet.is_discard or not _is_shown(packet, self.decoder.name):
                continue
            stamps.append(packet.pts)
            self._durations[packet.pts] = packet.duration
            if packet.is_keyframe and number and is_clean(packet):
                keys.append((packet.pts, number))
            if len(stamps) > MAX_FRAMES:
                self._check(len(stamps), 0)
        if not stamps:
            raise VideoError.of(self.path, "undecodable", "has no frame")
        self._order(stamps, keys)

    def _order(self, stamps: list[int | None], keys: list[tuple[int, int]]) -> None:
        """Set the attributes from the stamps of all packets and the stamps and numbers of the keys."""
        self.stamps, self.keys = None, [Key(0, 0)]
        if None in self._durations or len(self._durations) < len(stamps):  # a stamp is missing or there twice
            rate = self._rate() or ASSUMED_RATE  # until the frames are decoded
            self.timeline = self._checked(Timeline(np.arange(len(stamps)) / rate, rate, len(stamps) / rate))
            return
        self.stamps = sorted(stamps)
        self.timeline = self.timeline_of(self.stamps)
        position = {stamp: place for place, stamp in enumerate(self.stamps)}
        for stamp, number in keys:
            if position[stamp] > self.keys[-1].position:
                self.keys.append(Key(position[stamp], number))

    def _rate(self) -> float:
        """Frames a second by the container, 0 if unknown."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def _checked(self, timeline: Timeline) -> Timeline:
        """Refuse a timeline that is too long."""
        if timeline.duration > MAX_SECONDS:
            raise self._too_large(f"lasts {timeline.duration:.0f} s, {MAX_SECONDS} s are allowed")
        return timeline

    def _check(self, frames: int, pixels: int) -> None:
        """Refuse more frames or pixels than allowed."""
        if frames > MAX_FRAMES:
            raise self._too_large(f"has {frames} frames, {MAX_FRAMES} are allowed")
        if pixels > MAX_PIXELS:
            size = f"{self.decoder.width} x {self.decoder.height}"
            raise self._too_large(f"has frames of {size}, {MAX_PIXELS / 1e6:.0f} million pixels are allowed")

    def _too_large(self, excess: str) -> VideoError:
        return VideoError.of(self.path, "too large", excess, "cut or shrink the video")


def open_video(path: Path) -> av.container.InputContainer:
    """Open a file that is one of `CONTAINERS`.

    Raises:
        av.FFmpegError: it is not, or it is broken.
    """
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    # An absolute path is taken for no protocol, whatever the file is called.
    return av.open(os.path.abspath(path), options=options, metadata_errors="replace")


def best_stream(container: av.container.InputContainer, path: Path) -> av.video.stream.VideoStream:
    """The video stream that players show; a cover picture is none if there is another.

    Raises:
        VideoError: there is none, or no decoder for it.
    """
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise VideoError.of(path, "undecodable", "cannot find video stream with a known codec")
    return stream


def _demux(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream that hold something."""
    return (packet for packet in container.demux(stream) if packet.size)


def _is_shown(packet: av.Packet, codec: str) -> bool:
    """Whether a packet becomes a frame; VP8 has packets of pictures that others refer to (RFC 6386, 9.1)."""
    return codec != "vp8" or bool(bytes(memoryview(packet)[:1])[0] & 0x10)


def _clean_start(stream: av.video.stream.VideoStream):
    """A function that tells whether decoding can start at a packet that the container calls a key frame."""
    units = CLEAN_UNITS.get(stream.codec_context.name)
    if units is None:
        return lambda packet: True
    units = BitStreamFilterContext(f"filter_units=pass_types={units}", stream)
    return lambda packet: bool(units.filter(av.Packet(bytes(packet))))
