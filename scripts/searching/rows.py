"""The rows of an index: one for each segment.

S segments, N_v frames of each, D width.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from torch import Tensor

from scripts.searching.about import Manifest, check_inside
from scripts.searching.compression import compress
from scripts.searching.segments import Finished
from scripts.searching.spans import Span

IDENTITY = ("size", "changed", "content")


@dataclass(frozen=True)
class Details:
    """A user's details of a video; the date is YYYY-MM-DD or empty."""

    caption: str = ""
    tags: tuple[str, ...] = ()
    date: str = ""


@dataclass(frozen=True)
class Encoded:
    """A video whose segments are encoded.

    Attributes:
        spans: S of them, seconds.
        times: of the frames of each, seconds.
        tokens: (S, N_v, D).
        vectors: (S, D), of length 1.
        descriptions: of each, if the index has captions.
    """

    spans: list[Span]
    times: list[list[float]]
    tokens: Tensor
    vectors: Tensor
    descriptions: list[str] = field(default_factory=list)


def schema(manifest: Manifest, width: int) -> pa.Schema:
    """Names and types of the columns; for tokens see `scripts.searching.compression`."""
    frames, bits = manifest.sampling.max_frames, manifest.bits
    packed = (pa.float16(), frames * width) if bits == 16 else (pa.uint8(), frames * width * bits // 8)
    columns = {
        "video": pa.string(), "number": pa.int32(), "start": pa.float64(), "end": pa.float64(),
        "size": pa.int64(), "changed": pa.int64(), "content": pa.string(), "duration": pa.float64(),
        "caption": pa.string(), "tags": pa.list_(pa.string()), "date": pa.string(),
        "frames": pa.int32(), "times": pa.list_(pa.float32(), frames),
        "vector": pa.list_(pa.float16(), width), "tokens": pa.list_(*packed),
    }  # fmt: skip
    if bits < 16:
        columns["scales"] = pa.list_(pa.float16(), 2 * frames)
    if manifest.captions:
        columns["description"] = pa.string()
    return pa.schema(columns)


def rows_of(
    encoded: Encoded, video: Finished, identity: tuple[int, int], details: Details, manifest: Manifest
) -> pa.Table:
    """The rows of a video.

    Args:
        encoded: its segments.
        video: its file, content and duration.
        identity: size in bytes and time of change in nanoseconds.
        details: see `Details`.
        manifest: of the index.
    """
    segments, frames, width = encoded.tokens.shape
    same = {
        "video": stored_name(video.file), "size": identity[0], "changed": identity[1], "content": video.content,
        "duration": video.duration, "caption": details.caption, "date": details.date,
        "tags": list(details.tags) or None,
    }  # fmt: skip
    times = np.zeros((segments, frames), np.float32)
    for row, shown in zip(times, encoded.times, strict=True):
        row[: len(shown)] = shown
    columns = {name: [value] * segments for name, value in same.items()}
    columns |= {"number": range(segments), "frames": list(map(len, encoded.times)), "times": times}
    columns |= dict(zip(("start", "end"), zip(*encoded.spans, strict=True), strict=True))
    columns |= {"vector": encoded.vectors.half().cpu().numpy(), "description": encoded.descriptions}
    columns |= compress(encoded.tokens, encoded.vectors, manifest.bits)
    fields = schema(manifest, width)
    return pa.table([column(columns[each.name], each.type) for each in fields], schema=fields)


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists of one length as an array (S, length)."""
    flat = column.combine_chunks()
    return flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, flat.type.list_size).copy()


def stored_name(file: str) -> str:
    """A path as stored in the table, in UTF-8: other bytes are written as NUL and two digits."""
    return re.sub("[\udc80-\udcff]", lambda byte: f"\0{ord(byte[0]) - 0xDC00:02x}", file)


def file_name(stored: str) -> str:
    """Inverse of `stored_name`.

    Raises:
        ValueError: it names no video in the folder.
    """
    return check_inside(re.sub("\0([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), stored))


def column(values: object, kind: pa.DataType) -> pa.Array:
    """Values as a column; an array for lists of one length."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind.value_type), kind.list_size)
