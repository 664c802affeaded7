"""Compressed videos: size, rate, pictures, resuming, and unreadable videos."""

import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from scripts.compress_videos import main
from tests.conftest import write_video
from tests.numbered import decode_in_order, write_numbered
from tests.test_video_kinds import corners_of, write_corners
from utils.errors import InputError
from utils.files import MARKER
from utils.video.decode import decode_clip

ROOT = Path(__file__).parents[1]


def run(source, target, *words):
    return main(["--input", str(source), "--output", str(target), "--workers", "1", *words])


@pytest.fixture
def source(tmp_path):
    """A wide video in a subfolder and a tall one."""
    write_video(tmp_path / "in" / "deep" / "wide.avi", width=320, height=240, codec="mpeg4")
    write_video(tmp_path / "in" / "tall.mp4", width=180, height=320, fps=7, hue=3)
    return tmp_path / "in"


def test_rate_size_and_pictures(source, tmp_path):
    assert run(source, tmp_path / "out") == {}
    for name, size, original in (("deep/wide", (298, 224), "deep/wide.avi"), ("tall", (224, 398), "tall.mp4")):
        path = tmp_path / "out" / f"{name}.mp4"
        with av.open(str(path)) as container:
            assert [stream.type for stream in container.streams] == ["video"]
            stream = container.streams.video[0]
            assert stream.average_rate == 3
            assert (stream.width, stream.height) == size
            assert stream.frames in (9, 10)
        before, after = decode_clip(source / original), decode_clip(path)
        assert len(before) == len(after) == 3
        # Frames are those of the same moments, as they brighten with time.
        assert np.abs(before.mean((1, 2, 3)) - after.mean((1, 2, 3))).max() < 12


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("full.mp4", {"colours": {"color_range": 2, "colorspace": 6}}),
        ("limited.mp4", {"colours": {"color_range": 1, "colorspace": 6}}),
        ("motion.avi", {"codec": "mjpeg", "pixels": "yuvj420p", "colours": {"color_range": 2}}),
        ("mirrored.mp4", {"matrix": (-1, 0, 0, 1)}),
        ("upright.mp4", {"matrix": (0, 1, -1, 0)}),
        ("transposed.mp4", {"matrix": (0, 1, 1, 0)}),
        ("wide.mp4", {"shape": Fraction(4, 3)}),
    ],
)
def test_levels_shape_and_orientation_stay(tmp_path, name, options):
    (tmp_path / "in").mkdir()
    path = write_corners(tmp_path / "in" / name, width=320, height=240, **options)
    assert run(tmp_path / "in", tmp_path / "out") == {}
    before, after = decode_clip(path)[0], decode_clip((tmp_path / "out" / name).with_suffix(".mp4"))[0]
    height, width = before.shape[:2]
    assert min(after.shape[:2]) == 224
    assert after.shape[1] / after.shape[0] == pytest.approx(width / height, abs=0.01)
    assert corners_of(after) == corners_of(before)
    centres = [picture[len(picture) // 4, picture.shape[1] // 4].astype(int) for picture in (before, after)]
    assert np.abs(centres[0] - centres[1]).max() <= 2


def test_a_video_of_one_frame_becomes_one(tmp_path):
    write_video(tmp_path / "in" / "one.mp4", seconds=0.1)
    assert run(tmp_path / "in", tmp_path / "out") == {}
    with av.open(str(tmp_path / "out" / "one.mp4")) as container:
        assert container.streams.video[0].frames == 1


def test_frames_come_by_time(tmp_path):
    (tmp_path / "in").mkdir()
    times = np.cumsum([0, *[1] * 19, *[20] * 10]).tolist()  # ten frames a second, then one in two seconds
    write_numbered(tmp_path / "in" / "screen.mp4", 30, times=times)
    write_numbered(tmp_path / "in" / "misordered.avi", 60, bf="3", preset="veryfast")
    assert run(tmp_path / "in", tmp_path / "out", "--fps", "1") == {}
    assert decode_in_order(tmp_path / "out" / "misordered.mp4")[0] == [0, 10, 20, 30, 40, 50]
    shown, _ = decode_in_order(tmp_path / "out" / "screen.mp4")
    assert shown[:8] == [max(n for n, time in enumerate(times) if time <= 10 * second) for second in range(8)]


def test_what_is_there_is_left_and_what_changed_is_made_again(source, tmp_path):
    run(source, tmp_path / "out")
    first, second = tmp_path / "out" / "deep" / "wide.mp4", tmp_path / "out" / "tall.mp4"
    times = [path.stat().st_mtime_ns for path in (first, second)]
    future = time.time() + 100
    os.utime(source / "tall.mp4", (future, future))
    run(source, tmp_path / "out")
    assert first.stat().st_mtime_ns == times[0]
    assert second.stat().st_mtime_ns > times[1]


def test_a_broken_video_is_named_and_leaves_nothing(source, tmp_path, capsys):
    (source / "text.mp4").write_text("no video")
    (source / "empty.mp4").touch()
    assert list(run(source, tmp_path / "out")) == [str(source / "empty.mp4"), str(source / "text.mp4")]
    assert "2 videos could not be read" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.mp4")) == ["tall.mp4", "wide.mp4"]
    assert [path.name for path in (tmp_path / "out").rglob(".*")] == [MARKER]


@pytest.mark.parametrize("words", [["--fps", "0"], ["--short_side", "223"]])
def test_impossible_sizes_are_refused(source, tmp_path, words):
    with pytest.raises(InputError, match="must be"):
        run(source, tmp_path / "out", *words)


def test_nothing_to_do_is_said(tmp_path):
    with pytest.raises(InputError, match="no video in it; check --input"):
        run(tmp_path, tmp_path / "out")


def test_two_videos_never_become_one_file(source, tmp_path):
    write_video(source / "tall.mkv")
    with pytest.raises(InputError, match="several videos would become .*tall.mp4"):
        run(source, tmp_path / "out")


def test_the_script_ends_with_code_1_if_a_video_is_broken(source, tmp_path):
    (source / "text.mp4").write_text("no video")
    command = [sys.executable, "scripts/compress_videos.py", "--input", str(source), "--output", str(tmp_path / "out")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 1


def test_playlists_are_not_followed(source, tmp_path):
    (source / "list.mp4").write_text("ffconcat version 1.0\nfile tall.mp4\n")
    assert list(run(source, tmp_path / "out")) == [str(source / "list.mp4")]
