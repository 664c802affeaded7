"""Accuracy of moment search in long films, made by joining the clips of a data set."""

import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from dataloaders.build import build_split
from models import load_model
from models.export import model_digest
from scripts.benchmarks.measure import Row, count
from scripts.searching.about import IndexedModel, Manifest
from scripts.searching.build import build_index
from scripts.searching.query import VideoIndex
from scripts.searching.spans import CUTS
from utils.video.decode import Video

NEAR = 2.0
"""Maximum distance in seconds from the begin of a clip for an exact match."""
FRAMES = {"max_frames": 12, "framerate": 1, "group": 4}
RATE = 10
"""Frames a second of a film."""


@dataclass(frozen=True)
class Scene:
    """A clip in a film: file, begin and end in seconds, and its caption."""

    film: str
    begin: float
    end: float
    caption: str


def add_arguments(parser: ArgumentParser) -> None:
    """The data and the model."""
    parser.add_argument("--data", type=Path, default=Path("data/shapes"), help="folder that make_shapes.py wrote")
    parser.add_argument("--checkpoint", required=True, help="of a retrieval model")
    parser.add_argument("--seconds", type=count, default=600, help="length of a film")
    parser.add_argument("--segment", type=count, default=12, help="longest segment in seconds")
    parser.add_argument("--overlap", type=int, default=4, help="seconds that neighbouring windows share")


def measure(data: Path, checkpoint: str, seconds: int, segment: int, overlap: int) -> Iterator[Row]:
    """Yield a row for each way to cut films.

    "found" is the share of captions whose first result is a segment with a part of the clip in it, and "exact" the
    share of these whose moment begins within `NEAR` seconds of the clip.
    """
    model = load_model(checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        films = Path(temporary, "films")
        films.mkdir()
        scenes = join(data, films, seconds)
        for cut in CUTS:
            sampling = {"cut": cut, "segment": segment, "overlap": overlap, **FRAMES}
            manifest = Manifest(folder=str(films), model=IndexedModel.of(model, checkpoint, None), max_words=24,
                                digest=model_digest(checkpoint), sampling=sampling)  # fmt: skip
            build_index(model, Path(temporary, cut), manifest)
            index = VideoIndex(Path(temporary, cut))
            yield {"case": cut, "segments": index.store.count(), **_shares(index, scenes)}


def _shares(index: VideoIndex, scenes: Sequence[Scene]) -> Row:
    errors = []
    for scene in scenes:
        hit = index.search(scene.caption, top=1)[0]
        if hit.file == scene.film and hit.start < scene.end and scene.begin < hit.end:
            errors.append(abs(hit.begin - scene.begin))
    exact = sum(error <= NEAR for error in errors) / max(len(errors), 1)
    return {"captions": len(scenes), "found": len(errors) / len(scenes), "exact": exact}


def join(data: Path, folder: Path, seconds: int) -> list[Scene]:
    """Join the test clips to films of about `seconds`, and return the place of each clip."""
    split = build_split("msrvtt", data / "anns", "test")
    scenes: list[Scene] = []
    clips = list(zip(split.clips, split.captions, strict=True))
    number = 0
    while clips:
        film, begin = folder / f"film{number}.mp4", 0.0
        with av.open(str(film), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
            stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, RATE)
            while clips and begin < seconds:
                clip, caption = clips.pop(0)
                with Video(data / "MSRVTT_Videos" / f"{clip.video_id}.mp4") as video:
                    frames = video.clip(framerate=RATE, max_frames=10**4)
                if not begin:
                    stream.height, stream.width = frames.shape[1:3]
                for place, frame in enumerate(frames):
                    picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                    picture.pts, picture.time_base = round(begin * RATE) + place, Fraction(1, RATE)
                    container.mux(stream.encode(picture))
                scenes.append(Scene(film.name, begin, begin + len(frames) / RATE, caption))
                begin = scenes[-1].end
            container.mux(stream.encode())
        number += 1
    return scenes
