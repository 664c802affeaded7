"""Encode videos anew at 3 frames a second and 224 pixels, as the published preprocessing does, to load them faster.

`python scripts/compress_videos.py --input MSRVTT_Videos --output MSRVTT_Compressed`
writes an .mp4 under the same name for each video, without sound. Started again, it goes on where it was stopped.
It ends with code 1 if a video could not be read.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
from av import VideoFrame
from av.filter import Graph
from av.video.stream import VideoStream
from dataloaders.scrutiny import open_video, read_extent
from dataloaders.video import VIDEO_SUFFIXES
from tqdm import tqdm

from utils.args import run
from utils.errors import InputError
from utils.files import atomic_write


def compress_all(source: Path, target: Path, *, fps: int, short_side: int, workers: int) -> dict[str, str]:
    """Compress every video below a folder that has no newer compressed one.

    Args:
        source: folder of videos, with subfolders.
        target: folder that gets the same tree of .mp4 files.
        fps: frames a second.
        short_side: pixels, even.
        workers: processes, each with one thread.

    Returns:
        File -> reason, for the videos that could not be read.

    Raises:
        InputError: there is no such folder or no video in it, or `target` cannot be written.
    """
    videos = sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise InputError(f"{source}: no such folder, or no video in it; check --input")
    outputs = [(target / path.relative_to(source)).with_suffix(".mp4") for path in videos]
    if len(set(outputs)) < len(outputs):
        twice = next(path for path in outputs if outputs.count(path) > 1)
        raise InputError(f"{source}: several videos would become {twice}; rename or move one")
    jobs = [(path, output) for path, output in zip(videos, outputs, strict=True) if not _is_newer(output, path)]
    with ProcessPoolExecutor(workers) as pool:
        compress = partial(_try_compress, fps=fps, short_side=short_side)
        reasons = list(tqdm(pool.map(compress, *zip(*jobs, strict=True)), "videos", len(jobs))) if jobs else []
    return {str(path): reason for (path, _), reason in zip(jobs, reasons, strict=True) if reason}


def _is_newer(output: Path, path: Path) -> bool:
    """Whether a video was compressed after its last change; outputs are complete, as they get their name at the end."""
    return output.is_file() and output.stat().st_mtime >= path.stat().st_mtime


def _try_compress(path: Path, output: Path, *, fps: int, short_side: int) -> str | None:
    """Compress a video; what is wrong with it, if anything is."""
    try:
        compress_video(path, output, fps=fps, short_side=short_side)
    except InputError:
        raise
    except (av.FFmpegError, ValueError, IndexError) as error:
        return str(error).partition("\n")[0]
    return None


def compress_video(path: Path, output: Path, *, fps: int, short_side: int) -> None:
    """Encode the pictures of a video as H.264.

    Args:
        path: the video.
        output: the .mp4 file, whose folder is created.
        fps: frames a second.
        short_side: pixels, even; the other side follows the picture's shape, to an even number.

    Raises:
        av.FFmpegError, IndexError: the video cannot be decoded, or has no pictures.
        InputError: the output cannot be written.
        ValueError: it has no frame, or is larger than `dataloaders.scrutiny` allows.
    """
    if excess := read_extent(path).excess():
        raise ValueError(excess)
    with open_video(path) as reader, atomic_write(output, "wb") as file, av.open(file, "w", format="mp4") as writer:
        pictures = reader.streams.video[0]
        pictures.thread_count = 1
        graph = _filters(pictures, fps, short_side)
        stream = None
        for frame in _filtered(graph, reader.decode(pictures)):
            if stream is None:
                stream = writer.add_stream("libx264", rate=fps, options={"threads": "1"})
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
            writer.mux(stream.encode(frame))
        if stream is None:
            raise ValueError("it has no frame")
        writer.mux(stream.encode())


def _filters(pictures: VideoStream, fps: int, short_side: int) -> Graph:
    """A filter that gives `fps` frames a second and scales the short side."""
    graph = Graph()
    wide = pictures.width > pictures.height
    size = f"-2:{short_side}" if wide else f"{short_side}:-2"
    graph.link_nodes(
        graph.add_buffer(template=pictures),
        graph.add("fps", str(fps)),
        graph.add("scale", size),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _filtered(graph: Graph, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """Frames that come out of a filter."""
    for frame in chain(frames, [None]):  # None ends the stream
        graph.push(frame)
        with suppress(BlockingIOError, EOFError):
            while True:
                yield graph.pull()


def main(argv: Sequence[str] | None = None) -> dict[str, str]:
    """Parse the command line and compress; returns the videos that could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of videos, with subfolders")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--fps", type=int, default=3, help="frames a second (%(default)s)")
    parser.add_argument("--short_side", type=int, default=224, help="pixels, even (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    if options.fps < 1 or options.workers < 1 or options.short_side < 2 or options.short_side % 2:
        raise InputError("--fps and --workers must be 1 or more, --short_side an even number from 2 on")
    sizes = {"fps": options.fps, "short_side": options.short_side, "workers": options.workers}
    failed = compress_all(options.input, options.output, **sizes)
    for path, reason in failed.items():
        print(f"{path}: {reason}")
    print(f"{len(failed)} videos could not be read" if failed else f"{options.output}: complete")
    return failed


if __name__ == "__main__":
    run(lambda argv: sys.exit(1 if main(argv) else 0))
