"""Finding the video files of a data set."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from utils.errors import InputError, printable
from utils.files import atomic_write
from utils.video.checks import VIDEO_SUFFIXES

SHOWN = 5

logger = logging.getLogger("hbi")


@dataclass(frozen=True)
class Matches:
    """Files of videos in a folder: those found by id, ambiguous ones, and missing ids."""

    found: dict[str, Path] = field(default_factory=dict)
    ambiguous: dict[str, list[Path]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def match_videos(video_path: str | Path, video_ids: Iterable[str], files: Sequence[Path] | None = None) -> Matches:
    """Find the file of every video by one scan of the folder and its subfolders.

    An id is the name of a file or its path within the folder, with or without the ending; a name may lack or have the
    prefix "v_", and its accents may be composed or not. Of several matches the least deep wins, then the order of
    `VIDEO_SUFFIXES`; matches in different folders of the same depth are ambiguous. Links to folders are not followed.
    `files` are the paths to choose from; None: those on the disk.
    """
    folder = Path(video_path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of videos; check --video_path")
    named, matches = _by_name(folder, list_videos(folder) if files is None else files), Matches()
    for video_id in dict.fromkeys(video_ids):
        paths = next(filter(None, map(named.get, _spellings(normalize("NFC", video_id)))), [])
        rivals = [path for path in paths if len(path.parts) == len(paths[0].parts) and path.parent != paths[0].parent]
        if rivals:
            matches.ambiguous[video_id] = [paths[0], *rivals]
        elif paths:
            matches.found[video_id] = paths[0]
        else:
            matches.missing.append(video_id)
    return matches


def find_videos(
    video_path: str | Path,
    video_ids: Iterable[str],
    *,
    skip_missing: bool = False,
    missing_list: str | Path | None = None,
    files: Sequence[Path] | None = None,
) -> dict[str, Path]:
    """Find the file of every video, as `match_videos` does; `missing_list` receives the ids of missing ones.

    Raises:
        InputError: there is no such folder, a video is ambiguous or missing without `skip_missing`, or all are missing.
    """
    matches = match_videos(video_path, video_ids, files)
    for video_id, paths in matches.ambiguous.items():
        names = " or ".join(printable(path.relative_to(video_path).as_posix()) for path in paths[:SHOWN])
        remedy = "write the path in the annotation, or rename a file"
        raise InputError(f"{video_path}: {printable(video_id)} may be {names}; {remedy}")
    missing = matches.missing
    if not missing:
        return matches.found
    count = f"{len(missing)} of {len(matches.found) + len(missing)} videos are missing"
    message = f"{video_path}: {count}: {', '.join(map(printable, missing[:SHOWN]))}"
    message += ", ..." if len(missing) > SHOWN else ""
    if missing_list is not None:
        with atomic_write(missing_list) as file:
            file.writelines(f"{video_id}\n" for video_id in missing)
        message += f" (all in {missing_list})"
    if not matches.found:
        raise InputError(f"{message}; check --video_path")
    if not skip_missing:
        raise InputError(f"{message}; add them or give --skip_missing_videos")
    logger.warning("%s; they and their captions are left out", message)
    return matches.found


def list_videos(folder: Path) -> list[Path]:
    """The videos in a folder and its subfolders, sorted."""
    return sorted(
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
    )


def _by_name(folder: Path, paths: Sequence[Path]) -> dict[str, list[Path]]:
    paths = sorted(paths, key=lambda path: (len(path.parts), VIDEO_SUFFIXES.index(path.suffix.lower())))
    files: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        within = path.relative_to(folder)
        for name in {path.name, path.stem, within.as_posix(), within.with_suffix("").as_posix()}:
            files[normalize("NFC", name)].append(path)
    return files


def without_suffix(name: str) -> str:
    """A video's name without its ending, if that is one of `VIDEO_SUFFIXES`."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _spellings(video_id: str) -> Iterable[str]:
    for name in dict.fromkeys((video_id, without_suffix(video_id))):
        yield name
        yield name.removeprefix("v_") if name.startswith("v_") else f"v_{name}"
