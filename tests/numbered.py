"""Small videos whose frames carry their number, as fields of black (0) and white (1), the high bit first."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 8
WIDTH, HEIGHT = 160, 48
MIDDLES = [WIDTH * (2 * bit + 3) // (2 * (BITS + 2)) for bit in range(BITS)]


def picture_of(number: int) -> np.ndarray:
    """The picture of a number, uint8 (HEIGHT, WIDTH, 3)."""
    fields = [0, *(number >> bit & 1 for bit in reversed(range(BITS))), 0]
    row = np.repeat(np.array(fields, np.uint8) * 200 + 28, WIDTH // len(fields))
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(picture: np.ndarray) -> int:
    """The number of a picture, of any size."""
    row = picture[picture.shape[0] * 2 // 5 : picture.shape[0] * 3 // 5].mean((0, 2))
    values = [row[middle * len(row) // WIDTH - 2 : middle * len(row) // WIDTH + 3].mean() for middle in MIDDLES]
    return sum((value > 128) << bit for bit, value in enumerate(reversed(values)))


def numbers_of(pictures) -> list[int]:
    """The numbers of pictures."""
    return [number_of(picture) for picture in pictures]


def write_numbered(
    path: Path,
    frames: int = 40,
    *,
    codec: str = "libx264",
    rate: Fraction = Fraction(10),
    times=None,
    pixels: str = "yuv420p",
    **options: str,
) -> Path:
    """Write pictures of the numbers from 0 on.

    Args:
        path: its ending names the container.
        frames: how many.
        codec: an encoder.
        rate: frames a second.
        times: of each frame, in frames of `rate`; None for a constant rate.
        pixels: their format.
        **options: of the encoder, as `bf` for B-frames and `g` for the length of a group of pictures.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.time_base = 1 / Fraction(rate)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture_of(number), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number if times is None else times[number], 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_in_order(path: Path) -> tuple[list[int], list[float | None]]:
    """Numbers and time stamps of all frames, as a decoder gives them from the first packet to the last."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = [(number_of(frame.to_ndarray(format="rgb24")), frame.time) for frame in container.decode(stream)]
    return [number for number, _ in frames], [time for _, time in frames]
