"""Re-encode videos at 3 frames a second and 224 pixels, as the published preprocessing does, to load them faster.

`python scripts/compress_videos.py --input MSRVTT_Videos --output MSRVTT_Compressed`
writes an .mp4 under the same name for each video, without sound. Started again, it resumes.
It ends with code 1 if a video could not be read.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import numpy as np
from av import VideoFrame
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import Interpolation

from dataloaders.files import list_videos
from scripts.parallel import map_videos
from utils.arguments import WORKERS, ArgumentParser
from utils.errors import InputError
from utils.files import atomic_write, claim_folder
from utils.run import run
from utils.video.decode import Video
from utils.video.errors import VideoError
from utils.video.picture import Turn, shown_size

COLOURS = ("color_range", "colorspace", "color_primaries", "color_trc")


def compress_all(source: Path, target: Path, *, fps: int, short_side: int, workers: int) -> dict[str, str]:
    """Compress the videos of a folder that have no newer compressed version.

    Args:
        source: folder of videos, with subfolders.
        target: folder that gets the same tree of .mp4 files.
        fps: frames a second.
        short_side: pixels, even.
        workers: processes, each with one thread; 0 for this one.

    Returns:
        File -> reason, for the videos that could not be read.

    Raises:
        InputError: there is no such folder or no video in it, or `target` cannot be written.
    """
    videos = list_videos(source)
    if not videos:
        raise InputError(f"{source}: no such folder, or no video in it; check --input")
    outputs = [(target / path.relative_to(source)).with_suffix(".mp4") for path in videos]
    if len(set(outputs)) < len(outputs):
        twice = next(path for path in outputs if outputs.count(path) > 1)
        raise InputError(f"{source}: several videos would become {twice}; rename or move one")
    claim_folder(target, "compressed videos", apart_from=[source], flag="--output")
    jobs = [(path, output) for path, output in zip(videos, outputs, strict=True) if not _is_newer(output, path)]
    compress = partial(_try_compress, fps=fps, short_side=short_side)
    reasons = map_videos(compress, *zip(*jobs, strict=True), workers=workers) if jobs else []
    return {str(path): reason for (path, _), reason in zip(jobs, reasons, strict=True) if reason}


def _is_newer(output: Path, path: Path) -> bool:
    """Whether a video was compressed after its last change; outputs are renamed when complete."""
    return output.is_file() and output.stat().st_mtime >= path.stat().st_mtime


def _try_compress(path: Path, output: Path, *, fps: int, short_side: int) -> str | None:
    """Compress a video; returns the reason of a failure."""
    try:
        compress_video(path, output, fps=fps, short_side=short_side)
    except VideoError as error:
        return str(error)
    return None


def compress_video(path: Path, output: Path, *, fps: int, short_side: int) -> None:
    """Encode the pictures of a video as H.264: upright, with square pixels, and in the same colours.

    Args:
        path: the video.
        output: the .mp4 file, whose folder is created.
        fps: frames a second; each is the one that is presented at its time.
        short_side: pixels, even; the other side follows the picture's shape, to an even number.

    Raises:
        InputError: the video cannot be decoded, or the output cannot be written.
    """
    with Video(path) as video:

        def shown() -> np.ndarray:
            """Position of the frame shown at each time."""
            timeline = video.timeline
            return timeline.shown_at(np.arange(max(round(timeline.duration * fps), 1)) / fps)

        def encode(frames: Iterable[VideoFrame], positions: Sequence[int]) -> None:
            held = np.unique(shown(), return_counts=True)[1].tolist()
            with atomic_write(output, "wb") as file, av.open(file, "w", format="mp4") as writer:
                _encode(writer, fps, (_fitted(frame, video.pixel_shape, short_side) for frame in frames), held)

        video.read(lambda timeline: np.unique(shown()).tolist(), encode)


def _encode(writer: OutputContainer, fps: int, frames: Iterable[VideoFrame], held: Sequence[int]) -> None:
    """Encode frames, each `held` times."""
    stream, number = None, 0
    for frame, times in zip(frames, held, strict=True):
        if stream is None:
            stream = writer.add_stream("libx264", rate=fps, options={"threads": "1"})
            stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
            for name in COLOURS:
                setattr(stream.codec_context, name, getattr(frame, name))
        frame.time_base, frame.pict_type = Fraction(1, fps), PictureType.NONE
        for frame.pts in range(number, number + times):
            writer.mux(stream.encode(frame))
        number += times
    writer.mux(stream.encode())


def _fitted(frame: VideoFrame, pixel_shape: Fraction | None, short_side: int) -> VideoFrame:
    """A frame as it is shown, with its short side scaled."""
    width, height = shown_size(frame, pixel_shape)
    scale = short_side / min(width, height)
    width, height = (2 * round(side * scale / 2) for side in (width, height))
    colours = {"dst_colorspace": "ITU601", "dst_color_range": "MPEG"} if frame.format.is_rgb else {}
    fitted = frame.reformat(width, height, "yuv420p", interpolation=Interpolation.BICUBIC, threads=1, **colours)
    turn = Turn.of(frame)
    if turn == Turn():
        return fitted
    luma, chroma = np.split(fitted.to_ndarray(), [height])
    planes = [turn(plane) for plane in (luma, *chroma.reshape(2, height // 2, width // 2))]
    packed = np.concatenate([plane.ravel() for plane in planes]).reshape(-1, planes[0].shape[1])
    turned = VideoFrame.from_ndarray(packed, format="yuv420p")
    for name in COLOURS:
        setattr(turned, name, getattr(fitted, name))
    return turned


def main(argv: Sequence[str] | None = None) -> dict[str, str]:
    """Parse the command line and compress; returns the videos that could not be read."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of videos, with subfolders")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--fps", type=int, default=3, help="frames a second (%(default)s)")
    parser.add_argument("--short_side", type=int, default=224, help="pixels, even (%(default)s)")
    parser.add_argument("--workers", type=WORKERS, default=os.cpu_count(), help="processes, 0 for none (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    if options.fps < 1 or options.short_side < 2 or options.short_side % 2:
        raise InputError("--fps must be 1 or more, --short_side an even number from 2 on")
    sizes = {"fps": options.fps, "short_side": options.short_side, "workers": options.workers}
    failed = compress_all(options.input, options.output, **sizes)
    for reason in failed.values():
        print(reason)
    print(f"{len(failed)} videos could not be read" if failed else f"{options.output}: complete")
    return failed


if __name__ == "__main__":
    run(lambda argv: sys.exit(1 if main(argv) else 0))
