"""Video files: which frames to take, reading them, and finding the files of a data set.

n frames of a clip, H and W their height and width, R CLIP's resolution.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch  # before decord, which brings its own copies of system libraries

# isort: split
import av
import decord
import numpy as np

from dataloaders.container import missing_bytes
from dataloaders.frame_cache import FrameCache
from dataloaders.scrutiny import has_damage, is_blank, read_extent
from utils.errors import InputError, printable
from utils.files import atomic_write

# In order of preference where a folder holds one video in several containers.
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg", ".3gp", ".ts")
FRAME_RULES = ("decord", "cv2")

logger = logging.getLogger("hbi")
# A broken file is reported once, by the InputError it becomes.
decord.logging.set_level(decord.logging.QUIET)


def frame_positions(
    fps: float,
    num_frames: int,
    *,
    start: float | None = None,
    end: float | None = None,
    framerate: int = 1,
    max_frames: int = 12,
    rule: str = "decord",
    slice_framepos: int = 2,
) -> list[int]:
    """Choose the frames of a clip as the published loaders do.

    The window is cut to whole seconds, negative times to 0, reversed times are swapped and an empty window lasts one
    second. "decord" (published for MSR-VTT and question answering) steps from the window's first frame to its last by
    the rounded number of frames in a sample. "cv2" (published for ActivityNet and DiDeMo) takes `framerate` frames of
    each whole second, up to and including the second that starts at `end`, at a frame rate cut to an integer.

    The published code fails where a video has fewer frames a second than are asked for; here every frame is taken.

    Args:
        fps: average frame rate of the video, frames a second.
        num_frames: frames in the video.
        start: seconds; None for the beginning.
        end: seconds; None for the end of the video.
        framerate: samples a second, cut to an integer.
        max_frames: the most positions to return.
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
    start, end = _whole_seconds(start, end)
    choose = _stepped_positions if rule == "decord" else _positions_by_second
    positions = choose(fps, num_frames, start, end, int(framerate))
    if len(positions) > max_frames:
        kept = {
            0: slice(max_frames),
            1: slice(-max_frames, None),
            2: np.linspace(0, len(positions) - 1, max_frames, dtype=int),
        }
        positions = positions[kept[slice_framepos]]
    return positions.tolist()


def _whole_seconds(start: float | None, end: float | None) -> tuple[int, int | None]:
    """The window in whole seconds, in order and not empty; None for an end that is the video's."""
    start = max(int(start or 0), 0)
    if end is None:
        return start, None
    start, end = sorted((start, max(int(end), 0)))
    return start, end + (start == end)


def _stepped_positions(fps: float, num_frames: int, start: int, end: int | None, framerate: int) -> np.ndarray:
    """The "decord" rule, before too many are thinned out."""
    last = num_frames - 1 if end is None else int(min(end * fps, num_frames - 1))
    return np.arange(int(start * fps), last + 1, max(round(fps / framerate), 1))


def _positions_by_second(fps: float, num_frames: int, start: int, end: int | None, framerate: int) -> np.ndarray:
    """The "cv2" rule, before too many are thinned out."""
    whole_fps = max(int(fps), 1)
    duration = math.ceil(num_frames / whole_fps)
    offsets = np.arange(0, whole_fps, max(whole_fps // framerate, 1))[:framerate]
    seconds = np.arange(start, (duration if end is None else min(end, duration)) + 1)
    positions = (seconds[:, None] * whole_fps + offsets).ravel()
    return positions[positions < num_frames]


def read_clip(
    path: str | Path,
    transform: Callable[[np.ndarray], torch.Tensor],
    *,
    augment: Callable[[np.ndarray], np.ndarray] | None = None,
    cache: FrameCache | None = None,
    decode: Callable[..., np.ndarray] | None = None,
    **sampling: Any,
) -> torch.Tensor:
    """Read the sampled frames of a clip.

    Args:
        path: a video file.
        transform: uint8 (n, H, W, 3) -> uint8 (n, 3, R, R); with a cache its `repr` tells all of it.
        augment: uint8 (n, H, W, 3) -> the same, before `transform`.
        cache: keeps the transformed frames, or those before an augmentation.
        decode: does what `decode_clip` does, which it is if left out.
        **sampling: keywords of `decode_clip`.

    Returns:
        uint8 (n, 3, R, R), 1 <= n <= max_frames.

    Raises:
        InputError: as `decode_clip`.
    """
    make = partial(decode or decode_clip, path, **sampling)
    if cache is None:
        return transform(make() if augment is None else augment(make()))
    settings = {"decoder": f"decord {decord.__version__}", **sampling}
    if augment is not None:
        return transform(augment(cache.get(Path(path), settings, make)))
    settings["transform"] = repr(transform)
    frames = cache.get(Path(path), settings, lambda: transform(make()).permute(0, 2, 3, 1).numpy())  # (n, R, R, 3)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


def decode_clip(
    path: str | Path,
    *,
    start: float | None = None,
    end: float | None = None,
    framerate: int = 1,
    max_frames: int = 12,
    rule: str = "decord",
    slice_framepos: int = 2,
) -> np.ndarray:
    """Decode the sampled frames of a clip, with one decoding thread.

    Args:
        path: a video file.
        start: seconds; None for the beginning.
        end: seconds; None for the end of the video.
        framerate: samples a second.
        max_frames: the most frames to return.
        rule: as in `frame_positions`.
        slice_framepos: as in `frame_positions`.

    Returns:
        uint8 (n, H, W, 3), RGB, 1 <= n <= max_frames.

    Raises:
        InputError: the file is missing, empty, truncated, no video, broken, larger than `dataloaders.scrutiny` allows,
            or has no frame in the window.
    """
    _check_file(Path(path))
    try:
        if excess := read_extent(path).excess():
            raise InputError(f"{path}: {excess}; cut or shrink the video")
        reader = decord.VideoReader(str(path), num_threads=1)
        fps, num_frames = reader.get_avg_fps(), len(reader)
        if not (math.isfinite(fps) and fps > 0):
            raise InputError(f"{path}: says that it has {fps} frames a second; encode it again")
        positions = frame_positions(
            fps,
            num_frames,
            start=start,
            end=end,
            framerate=framerate,
            max_frames=max_frames,
            rule=rule,
            slice_framepos=slice_framepos,
        )
        if not positions:
            lasts = f"the video lasts {num_frames / fps:.1f} s"
            raise InputError(f"{path}: no frame between {start} and {end} s, {lasts}; mend the annotation")
        frames = reader.get_batch(positions).asnumpy()
    except (av.FFmpegError, decord.DECORDError, RuntimeError, AssertionError, IndexError) as error:
        raise InputError(f"{path}: cannot be decoded ({reason_of(error)}); replace the file") from error
    blank = [position for position, frame in zip(positions, frames, strict=True) if is_blank(frame)]
    if blank and has_damage(path, blank[-1] + 1):
        raise InputError(f"{path}: is damaged, its frame {blank[-1]} is lost; replace the file")
    return frames


def _check_file(path: Path) -> None:
    """Refuse what the decoder would play as something else, or refuse without a reason."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"{path}: is no video by its name; known endings are {' '.join(VIDEO_SUFFIXES)}")
    try:
        missing = missing_bytes(path)
        empty = path.stat().st_size == 0
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    if empty:
        raise InputError(f"{path}: is empty; replace the file")
    if missing:
        raise InputError(f"{path}: is truncated, {missing} bytes are missing; replace the file")


def reason_of(error: Exception) -> str:
    """What the decoder says, without its time stamps and source positions."""
    if isinstance(error, av.FFmpegError):
        return error.log[2].strip() if error.log else error.strerror
    first = str(error).strip().partition("\n")[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", first) or type(error).__name__


def find_videos(
    video_path: str | Path,
    video_ids: Iterable[str],
    *,
    skip_missing: bool = False,
    missing_list: str | Path | None = None,
) -> dict[str, Path]:
    """Find the file of every video with one scan of the folder and its subfolders.

    An id is matched with a file's name with or without its ending, and with or without the prefix "v_". Of several
    matches the least deep wins, then the order of `VIDEO_SUFFIXES`, then of names. Links to folders are not followed.

    Args:
        video_path: the folder.
        video_ids: the ids to look for.
        skip_missing: log what is missing instead of raising.
        missing_list: file that receives the missing ids, one a line.

    Returns:
        id -> file, in the order given, without the missing ones.

    Raises:
        InputError: there is no such folder, a video is missing and `skip_missing` is not set, or none is there.
    """
    folder = Path(video_path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of videos; check --video_path")
    files = _scan(folder)
    ids = list(dict.fromkeys(video_ids))
    matches = {video_id: next(filter(None, map(files.get, _spellings(video_id))), None) for video_id in ids}
    found = {video_id: path for video_id, path in matches.items() if path is not None}
    if len(found) == len(ids):
        return found
    missing = [video_id for video_id in ids if video_id not in found]
    message = f"{folder}: {len(missing)} of {len(ids)} videos are missing: {', '.join(map(printable, missing[:5]))}"
    message += ", ..." if len(missing) > 5 else ""
    if missing_list is not None:
        with atomic_write(missing_list) as file:
            file.writelines(f"{video_id}\n" for video_id in missing)
        message += f" (all in {missing_list})"
    if not found:
        raise InputError(f"{message}; check --video_path")
    if not skip_missing:
        raise InputError(f"{message}; add them or give --skip_missing_videos")
    logger.warning("%s; they and their captions are left out", message)
    return found


def _scan(folder: Path) -> dict[str, Path]:
    """Every video below a folder, by its name with and without the ending."""
    paths = [
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
    ]
    paths.sort(key=lambda path: (len(path.parts), VIDEO_SUFFIXES.index(path.suffix.lower()), path))
    files: dict[str, Path] = {}
    for path in paths:
        files.setdefault(path.name, path)
        files.setdefault(path.stem, path)
    return files


def without_suffix(name: str) -> str:
    """A video's name without its ending, if that is one of `VIDEO_SUFFIXES`."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _spellings(video_id: str) -> Iterable[str]:
    """The names under which a video may lie: as given, without its ending, each with and without "v_"."""
    for name in dict.fromkeys((video_id, without_suffix(video_id))):
        yield name
        yield name.removeprefix("v_") if name.startswith("v_") else f"v_{name}"
