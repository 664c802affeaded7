"""Decoded frames against decoding in order: random files, and each kind of file that decoders get wrong."""

import os
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.numbered import decode_in_order, number_of, numbers_of, write_numbered
from utils.video.decode import Video
from utils.video.errors import VideoError

CONTAINERS = {
    "libx264": (".mp4", ".mkv", ".avi", ".ts", ".mov", ".flv", ".m4v", ".mpg"),
    "libx265": (".mp4", ".mkv", ".ts"),
    "mpeg4": (".mp4", ".mkv", ".avi", ".ts", ".3gp"),
    "mpeg2video": (".mpg", ".ts", ".mkv", ".avi"),
    "mpeg1video": (".mpeg", ".mkv", ".avi"),
    "wmv1": (".wmv", ".avi"),
    "wmv2": (".wmv", ".avi"),
    "msmpeg4": (".wmv", ".avi"),
    "libvpx": (".webm", ".mkv"),
    "libvpx-vp9": (".webm", ".mp4"),
    "mjpeg": (".avi", ".mkv", ".mov"),
    "flv": (".flv",),
}
WITH_B_FRAMES = ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video")
AT_FIXED_RATES = ("mpeg1video", "mpeg2video")
WITH_OWN_TIMES = (".mp4", ".mkv", ".mov", ".webm", ".wmv")
RATES = [Fraction(rate) for rate in (10, 15, 24, 25, 30, 50)] + [Fraction(30000, 1001), Fraction(24000, 1001)]


def encoder_options(codec: str, draw: random.Random) -> dict[str, str]:
    """Lengths of groups of pictures, B-frames, and what the encoder offers to make groups refer to each other."""
    group, between = draw.choice((1, 4, 7, 12, 30, 250)), draw.randrange(4)
    if codec == "libx265":
        keys = f"keyint={group}:min-keyint=1:open-gop={draw.randrange(2)}:intra-refresh={draw.randrange(4) // 3}"
        return {"preset": "ultrafast", "x265-params": f"log-level=none:{keys}:bframes={between}"}
    options = {"g": str(group)}
    if codec in WITH_B_FRAMES:
        options["bf"] = str(between)
    if codec == "libx264":
        keys = draw.choice(("open-gop=1", "intra-refresh=1", "bframes=2:b-pyramid=strict", "ref=4", "scenecut=0"))
        options |= {"preset": "ultrafast", "x264-params": keys}
    elif codec.startswith("libvpx"):
        lag = draw.choice(("0", "12"))  # with it, frames that are not shown
        options |= {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": lag, "auto-alt-ref": "1"}
    return options


def draw_video(folder: Path, draw: random.Random) -> Path:
    """Write a video of a drawn codec, container, structure and rate."""
    codec = draw.choice(list(CONTAINERS))
    suffix = draw.choice(CONTAINERS[codec])
    rate = draw.choice(RATES[2:] if codec in AT_FIXED_RATES else RATES)
    frames = draw.randrange(5, 60)
    times = None
    if suffix in WITH_OWN_TIMES and codec not in AT_FIXED_RATES and draw.random() < 0.3:
        times = np.cumsum([0, *draw.choices((1, 1, 1, 2, 5, 20), k=frames)]).tolist()
    return write_numbered(
        folder / f"video{suffix}",
        frames,
        codec=codec,
        rate=rate,
        times=times,
        pixels="yuvj420p" if codec == "mjpeg" else "yuv420p",
        **encoder_options(codec, draw),
    )


def expected_clip(times: list[float], duration: float, start: float, end: float, framerate: int) -> list[int]:
    """Positions of the frames presented at start, start + 1 / framerate, ... up to the end or that of the video."""
    moments = [start + number / framerate for number in range(int((end - start) * framerate + 1e-6) + 1)]
    shown = (sum(time <= moment + 1e-3 for time in times) - 1 for moment in moments if moment < duration)
    return list(dict.fromkeys(shown))


def check_drawn(path: Path, draw: random.Random) -> str:
    """Compare the frames of clips with decoding in order, unless the video is refused."""
    numbers, stamps = decode_in_order(path)
    with Video(path) as video:
        try:
            wanted = sorted(draw.sample(range(len(numbers)), min(5, len(numbers))))
            frames = video.read(
                lambda timeline: [position for position in wanted if position < len(timeline.times)],
                lambda frames, positions: [number_of(frame.to_ndarray(format="rgb24")) for frame in frames],
            )
            assert frames == [numbers[position] for position in wanted]
            times = video.timeline.times.tolist()
            assert len(times) == len(numbers)
            if path.suffix not in (".avi", ".mpg", ".mpeg"):  # of the others the container knows the times
                assert times == pytest.approx([stamp - stamps[0] for stamp in stamps], abs=1e-6)
            start = draw.randrange(int(times[-1] * 1000) + 1) / 1000 + 0.0004  # stamps are often milliseconds
            end, framerate = start + draw.randrange(1, 3000) / 1000, draw.choice((1, 3, 10))
            shown = numbers_of(video.clip(start=start, end=end, framerate=framerate, max_frames=100))
            expected = expected_clip(times, video.timeline.duration, start, end, framerate)
            assert shown == [numbers[position] for position in expected]
        except VideoError as error:
            assert str(error).startswith(f"{path}: has time stamps that run backwards or are missing")
            return "refused"
    return "read"


def check_many(folder: Path, seeds: range) -> Counter:
    """Draw and check a video for each seed."""
    ends = Counter()
    for seed in seeds:
        draw = random.Random(seed)
        path = draw_video(folder, draw)
        try:
            ends[check_drawn(path, draw)] += 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {path.name}: {error}") from error
        path.unlink()
    return ends


def test_drawn_files_give_the_frames_of_decoding_in_order(tmp_path):
    assert check_many(tmp_path, range(200)) == {"read": 200}


@pytest.mark.slow
@pytest.mark.skipif("HBI_TEST_LONG" not in os.environ, reason="takes minutes: set HBI_TEST_LONG=1 to run it")
def test_many_drawn_files_give_the_frames_of_decoding_in_order(tmp_path):
    assert check_many(tmp_path, range(200, 2200))["read"] >= 1980
