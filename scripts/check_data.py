"""Compare the numbers of captions and videos with the published ones, and find missing and broken videos.

`python scripts/check_data.py --datatype msrvtt --anno_path data/MSR-VTT/anns --video_path MSRVTT_Videos`
prints tables and writes data_report.json and skip_list.txt, which the training scripts take as --skip_list.
It ends with code 1 if there is a video to skip.
"""

import argparse
import json
import logging
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataloaders import DATASETS, build_split, find_dataset, has_validation
from dataloaders.base import Split
from dataloaders.files import Matches, match_videos
from dataloaders.formats.schema import BadRowsError
from scripts.benchmarks.measure import count
from scripts.inspection import HARMLESS, PROBLEMS, Inspection, Window, find_duplicates, inspect_video
from scripts.parallel import map_videos
from scripts.published_sizes import PUBLISHED_SIZES
from utils.arguments import WORKERS, ArgumentParser
from utils.errors import InputError, printable
from utils.files import OUTPUTS, atomic_write, claim_folder
from utils.logger import table
from utils.run import run

SHOWN = 5


def check_data(
    datatype: str,
    anno_path: Path,
    video_path: Path,
    *,
    workers: int = 2,
    max_frames: int = 12,
    framerate: int = 1,
    **options: str,
) -> dict[str, Any]:
    """Read all annotations and inspect all their videos.

    Args:
        datatype: a key of `DATASETS`.
        anno_path: folder of annotations.
        video_path: folder of videos.
        workers: processes that decode; 0 for this one.
        max_frames: frames that training takes of a clip.
        framerate: frames that training takes of a second.
        **options: of the data set's reader.

    Returns:
        "splits": name -> `count_split`; "shared": pairs of splits that have videos in common -> their ids; "problems":
        key of `PROBLEMS` -> list of {"video_id", "file", "reason"}; "skip": ids that training cannot use.

    Raises:
        InputError: annotations are missing or malformed, or no video is found.
    """
    names = ("train", "val", "test") if has_validation(datatype, anno_path, **options) else ("train", "test")
    splits = {name: build_split(datatype, anno_path, name, **options) for name in names}
    ids = list(dict.fromkeys(clip.video_id for split in splits.values() for clip in split.clips))
    matches = match_videos(video_path, ids)
    if not (matches.found or matches.ambiguous):
        raise InputError(f"{video_path}: none of {len(ids)} videos is there; check --video_path")
    spec = find_dataset(datatype)
    sampling = {"max_frames": max_frames, "framerate": framerate}
    sampling |= {"rule": spec.frame_rule, "whole_seconds": spec.whole_seconds}
    inspections = inspect_all(matches.found, windows_of(splits.values()), sampling, workers)
    published = PUBLISHED_SIZES.get(" ".join([datatype, *options.values()]), {})
    problems = list_problems(ids, matches, inspections)
    skipped = {entry["video_id"] for kind, found in problems.items() if kind not in HARMLESS for entry in found}
    return {
        "splits": {
            name: count_split(split, inspections, published.get(name, (None, None))) for name, split in splits.items()
        },
        "shared": shared_videos(splits),
        "problems": problems,
        "skip": [video_id for video_id in ids if video_id in skipped],
    }


def windows_of(splits: Iterable[Split]) -> dict[str, list[Window]]:
    """Start and end of every clip of each video."""
    windows: dict[str, dict[Window, None]] = defaultdict(dict)
    for split in splits:
        for clip in split.clips:
            windows[clip.video_id][clip.start, clip.end] = None
    return {video_id: list(found) for video_id, found in windows.items()}


def inspect_all(
    files: dict[str, Path], windows: dict[str, list[Window]], sampling: dict[str, Any], workers: int
) -> dict[str, Inspection]:
    """Inspect the clips of files in `workers` processes, with a progress bar."""
    jobs = files.values(), [windows[video_id] for video_id in files]
    found = map_videos(partial(inspect_video, **sampling), *jobs, workers=workers, chunksize=8)
    return dict(zip(files, found, strict=True))


def list_problems(
    ids: Sequence[str], matches: Matches, inspections: dict[str, Inspection]
) -> dict[str, list[dict[str, str]]]:
    """The problems of all videos by kind, as `check_data` returns them."""
    problems: dict[str, list[dict[str, str]]] = {kind: [] for kind in PROBLEMS}
    unmatched = {video_id: Inspection("missing") for video_id in matches.missing}
    for video_id, paths in matches.ambiguous.items():
        unmatched[video_id] = Inspection("ambiguous", " or ".join(printable(str(path)) for path in paths))
    for video_id in ids:
        found = inspections.get(video_id) or unmatched[video_id]
        if found.problem:
            file = printable(str(matches.found.get(video_id, "")))
            problems[found.problem].append({"video_id": video_id, "file": file, "reason": found.reason})
    names = {path: video_id for video_id, path in matches.found.items()}
    readable = [path for path in names if inspections[names[path]].problem != "unreadable"]
    for first, *others in find_duplicates(readable):
        for path in others:
            entry = {"video_id": names[path], "file": printable(str(path)), "reason": printable(f"as {first}")}
            problems["duplicate"].append(entry)
    return problems


def count_split(
    split: Split, inspections: dict[str, Inspection], published: tuple[int | None, int | None]
) -> dict[str, Any]:
    """Sizes of a split: videos and captions, the published ones, and the spread of captions, words and seconds."""
    counts = [0] * len(split.clips)
    for clip in split.clip_of_caption:
        counts[clip] += 1
    videos = {clip.video_id for clip in split.clips}
    seconds = [found.seconds for video_id, found in inspections.items() if video_id in videos and found.seconds]
    return {
        "videos": len(videos),
        "captions": len(split.captions),
        "published videos": published[0],
        "published captions": published[1],
        "captions of a clip": spread(counts),
        "words of a caption": spread([len(caption.split()) for caption in split.captions]),
        "seconds of a video": spread(seconds),
    }


def spread(numbers: Sequence[float]) -> dict[str, float] | None:
    """Minimum, median and maximum of some numbers, None if there are none."""
    if not numbers:
        return None
    return {"least": min(numbers), "median": statistics.median(numbers), "most": max(numbers)}


def shared_videos(splits: dict[str, Split]) -> dict[str, list[str]]:
    """Videos in two splits, by the names of the splits."""
    videos = {name: {clip.video_id for clip in split.clips} for name, split in splits.items()}
    names = list(videos)
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    return {f"{one} and {other}": sorted(both) for one, other in pairs if (both := videos[one] & videos[other])}


def format_report(report: dict[str, Any]) -> str:
    """The report as text."""
    header = ["split", *next(iter(report["splits"].values()))]
    rows = [[name, *map(_cell, counts.values())] for name, counts in report["splits"].items()]
    parts = [table(header, rows)]
    found = [(kind, entries) for kind, entries in report["problems"].items() if entries]
    if found:
        rows = [
            [kind, len(entries), PROBLEMS[kind], ", ".join(entry["video_id"] for entry in entries[:SHOWN])]
            for kind, entries in found
        ]
        parts.append(table(["problem", "videos", "meaning", "first"], rows))
    parts += [f"in {names}: {len(ids)} videos, first {ids[0]}" for names, ids in report["shared"].items()]
    parts.append(f"{len(report['skip'])} videos to skip" if found else "all videos are there and whole")
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    """A count or a spread as text."""
    if isinstance(value, dict):
        return " / ".join(f"{number:.4g}" for number in value.values())
    return "-" if value is None else str(value)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Check, print and write; returns the report."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datatype", default="msrvtt", choices=DATASETS, help="name of the data set (%(default)s)")
    parser.add_argument("--msrvtt_split", choices=("9k", "7k", "full", "1kB"), default="9k", help="(%(default)s)")
    parser.add_argument("--anno_path", type=Path, required=True, help="folder of the annotation files")
    parser.add_argument("--video_path", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--output_dir", type=Path, default=Path("output/check"),
                        help="folder for the report and the skip list (%(default)s)")
    parser.add_argument("--max_frames", type=count, default=12, help="frames that are taken of a clip (%(default)s)")
    parser.add_argument("--video_framerate", type=count, default=1, help="and of a second at most (%(default)s)")
    parser.add_argument("--workers", type=WORKERS, default=2, help="processes that decode, 0 for none (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    options = {name: getattr(arguments, name) for name in find_dataset(arguments.datatype).options}
    paths = arguments.anno_path, arguments.video_path
    options |= {"max_frames": arguments.max_frames, "framerate": arguments.video_framerate}
    try:
        report = check_data(arguments.datatype, *paths, workers=arguments.workers, **options)
    except BadRowsError as error:
        print(*error.reasons, sep="\n")
        raise
    print(format_report(report))
    claim_folder(arguments.output_dir, "output", names=OUTPUTS, flag="--output_dir")
    with atomic_write(arguments.output_dir / "data_report.json") as file:
        json.dump(report, file, indent=1)
    with atomic_write(arguments.output_dir / "skip_list.txt") as file:
        file.writelines(f"{video_id}\n" for video_id in report["skip"])
    print(f"written: {arguments.output_dir / 'data_report.json'}, {arguments.output_dir / 'skip_list.txt'}")
    return report


if __name__ == "__main__":
    logging.getLogger("dataloaders").setLevel(logging.ERROR)  # missing videos are in the report
    run(lambda argv: sys.exit(1 if main(argv)["skip"] else 0))
