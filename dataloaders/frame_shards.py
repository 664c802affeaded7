"""Decoded frames of clips in tar shards, which scripts/shard_frames.py writes, in place of the videos.

n frames of a clip, H and W their height and width.

Next to each shard, NUMBER.tar, is its index, NUMBER.json: where the frames of each clip are. A clip is one read of one
large file. FRAMES says how all frames were chosen.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import InstanceOf, NonNegativeInt, PlainValidator, PositiveInt
from safetensors.numpy import load

from dataloaders.frame_cache import DAMAGES, unpack
from utils.errors import InputError, printable
from utils.schema import Settings, validated
from utils.texts import read_json
from utils.video.checks import VIDEO_SUFFIXES

FRAMES = "frame_shards.json"
SUFFIX = ".safetensors"
"""Ending of the files in a shard that hold frames."""
REMEDY = "copy it again, or make it again with scripts/shard_frames.py"

Place = tuple[Path, float | None, float | None]
"""A video, and start and end of a clip."""


class About(Settings):
    """Content of FRAMES.

    Attributes:
        sampling: fields of `utils.video.positions.Sampling` but the window.
        form: of the frames, as in the frame cache.
        clips_sha256: digest of the clips and the sizes of their videos.
        shards: how many there are.
    """

    sampling: dict[str, bool | int | str]
    decoder: str
    form: str
    clips: NonNegativeInt
    clips_sha256: str
    shards: PositiveInt


def _video(name: Any) -> str:
    path = PurePosixPath(name if isinstance(name, str) else "")
    if path.is_absolute() or ".." in path.parts or path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError("is no video's path")
    return name


class StoredClip(Settings):
    """A clip in the index of a shard.

    Attributes:
        video: path within the folder of the videos.
        offset: of the frames in the shard.
        size: of the frames in bytes.
        crc32: checksum of these bytes.
        reason: why there are no frames.
    """

    video: Annotated[str, PlainValidator(_video)]  # not validated as Unicode, which names of files may not be
    start: float | None
    end: float | None
    offset: NonNegativeInt = 0
    size: NonNegativeInt = 0
    crc32: NonNegativeInt = 0
    reason: InstanceOf[str] = ""


class ShardIndex(Settings):
    """Size of a shard, and its clips."""

    bytes: NonNegativeInt
    clips: list[StoredClip]


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard; its index has the ending .json."""
    return folder / f"{number:06}.tar"


def read_index(shard: Path) -> ShardIndex:
    """Read the index of a shard.

    Raises:
        InputError: shard or index are missing, or the shard has not the size that was written.
    """
    path = shard.with_suffix(".json")
    for file in (path, shard):
        if not file.is_file():
            raise InputError(f"{file}: is missing; {REMEDY}")
    index, size = validated(ShardIndex, read_json(path), path, REMEDY), shard.stat().st_size
    written = max([index.bytes, *(clip.offset + clip.size for clip in index.clips)])
    if size != written:
        raise InputError(f"{shard}: has {size} bytes, but {written} were written; {REMEDY}")
    return index


class FrameShards:
    """The frames in a folder of shards.

    Raises:
        InputError: files are missing, truncated or not those of shards.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / FRAMES
        self.about = validated(About, read_json(path), path, REMEDY)
        self.clips: dict[Place, tuple[Path, StoredClip]] = {}
        for number in range(self.about.shards):
            shard = shard_path(self.folder, number)
            for clip in read_index(shard).clips:
                self.clips[self.folder / clip.video, clip.start, clip.end] = shard, clip

    @property
    def videos(self) -> list[Path]:
        """The paths that the videos would have in this folder."""
        return list(dict.fromkeys(video for video, _, _ in self.clips))

    def check(self, places: Iterable[Place], sampling: dict[str, Any]) -> None:
        """Raise an InputError if frames were chosen otherwise than by `sampling`, or clips are missing."""
        made = self.about.sampling
        other = [f"{name} {made.get(name)}, not {value}" for name, value in sampling.items() if made.get(name) != value]
        if other:
            remedy = "give the flags that scripts/shard_frames.py had, or make other shards"
            raise InputError(f"{self.folder}: its frames were taken with {', '.join(other)}; {remedy}")
        for video, start, end in places:
            if (video, start, end) not in self.clips:
                window = f"{start or 0:g} s to {'the end' if end is None else f'{end:g} s'}"
                name = printable(video.relative_to(self.folder).as_posix())
                remedy = "make shards of this data set, with its --datatype and --anno_path"
                raise InputError(f"{self.folder}: has no frames of {name} from {window}; {remedy}")

    def read(self, path: Path, *, start: float | None = None, end: float | None = None, **_sampling: Any) -> np.ndarray:
        """Read the frames of a clip, uint8 (n, H, W, 3), in place of `decode_clip`; `check` must have passed.

        Raises:
            InputError: the frames are damaged, or the video could not be decoded.
        """
        shard, clip = self.clips[path, start, end]
        if clip.reason:
            raise InputError(clip.reason)
        try:
            with open(shard, "rb") as file:
                file.seek(clip.offset)
                content = file.read(clip.size)
            if zlib.crc32(content) != clip.crc32:
                raise ValueError("checksum")
            return unpack(load(content))
        except (OSError, *DAMAGES) as error:
            raise InputError(f"{shard}: the frames of {printable(clip.video)} are damaged; {REMEDY}") from error


def open_shards(folder: str | Path) -> FrameShards | None:
    """Open a folder if it is one of shards."""
    return FrameShards(folder) if (Path(folder) / FRAMES).is_file() else None
