"""Write a page of a retrieval run's worst queries, with their true videos and the videos found instead.

python scripts/worst_queries.py output/hbi --video_path DATA/MSRVTT_Videos [--count 50] [--output worst.html]
The run's folder has predictions.jsonl; the page holds its pictures and needs no server.
"""

import argparse
import base64
import html
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataloaders.files import match_videos
from scripts.benchmarks.measure import count
from scripts.experiments.queries import FoundVideo, Query, read_queries
from utils.errors import InputError
from utils.files import atomic_write
from utils.run import run
from utils.video.decode import decode_clip

THUMBNAIL = 160
"""Size of a thumbnail's longer side in pixels."""
SHOWN = 3
"""Number of found videos of each query."""
STYLE = """body { font: 15px sans-serif; margin: 2em }
figure { display: inline-block; margin: 0 1em 1em 0; width: 160px }
img, .none { width: 160px; height: 120px; object-fit: contain; background: #ddd } figcaption { font-size: 12px }
.true img { outline: 3px solid #2a7 }"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page of the command line `argv`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of an evaluation by main_retrieval.py")
    parser.add_argument("--video_path", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--count", type=count, default=50, help="queries on the page (%(default)s)")
    parser.add_argument("--output", type=Path, help="the page; left out: worst_queries.html in the run's folder")
    args = parser.parse_args(argv)
    path = args.output or args.run / "worst_queries.html"
    worst = sorted(read_queries(args.run), key=lambda query: -query.rank)[: args.count]
    shown = {found.video for query in worst for found in (query.true, *query.found[:SHOWN])}
    videos = match_videos(args.video_path, {_place(name)[0] for name in shown}).found
    pictures = {name: picture for name in sorted(shown) if (picture := thumbnail(name, videos))}
    if not pictures:
        raise InputError(f"{args.video_path}: none of the {len(shown)} videos is there; give another --video_path")
    with atomic_write(path) as file:
        file.write(page(worst, pictures))
    print(f"{path}: {len(worst)} queries, {len(pictures)} of {len(shown)} videos")


def thumbnail(name: str, videos: Mapping[str, Path]) -> str | None:
    """The frame in the middle of a clip as a data URL; None if the video is missing or cannot be read."""
    video_id, window = _place(name)
    try:
        frames = decode_clip(videos[video_id], framerate=1, max_frames=3, **window)
    except (KeyError, InputError):
        return None
    picture = Image.fromarray(frames[len(frames) // 2])
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _place(name: str) -> tuple[str, dict[str, float]]:
    """The id of a clip's video and its window, from a name such as "video7" or "video7, 3-8 s"."""
    video_id, comma, times = name.rpartition(", ")
    start, dash, end = times.removesuffix(" s").partition("-")
    try:
        window = {side: float(time) for side, time in (("start", start), ("end", end)) if time}
    except ValueError:
        return name, {}
    return (video_id, window) if comma and dash and times.endswith(" s") else (name, {})


def page(queries: Sequence[Query], pictures: Mapping[str, str]) -> str:
    """The page as HTML; text from files is escaped."""
    blocks = "\n".join(
        f"<h2>{html.escape(query.query)}</h2><p>rank {query.rank}</p>{figure(query.true, pictures, 'true')}"
        + "".join(figure(found, pictures, "found") for found in query.found[:SHOWN])
        for query in queries
    )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Worst queries</title><style>{STYLE}</style>'
    return f"{head}<h1>Worst queries</h1>{blocks}</html>\n"


def figure(found: FoundVideo, pictures: Mapping[str, str], kind: str) -> str:
    """A thumbnail with its name and scores."""
    picture = pictures.get(found.video)
    image = f'<img src="{picture}" alt="">' if picture else '<div class="none"></div>'
    levels = "".join(f"<br>{html.escape(name)} {score:.3f}" for name, score in found.levels.items())
    label = f"{kind}: {html.escape(found.video)}<br>score {found.score:.3f}{levels}"
    return f'<figure class="{kind}">{image}<figcaption>{label}</figcaption></figure>'


if __name__ == "__main__":
    run(main)
