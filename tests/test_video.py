"""Frame choice against recorded positions, decoding, broken files, and finding files."""

import json
import os
import time
from functools import partial
from pathlib import Path
from unicodedata import normalize

import av
import numpy as np
import pytest
import torch

from dataloaders.clips import read_clip
from dataloaders.files import find_videos
from tests.conftest import write_video
from utils.errors import InputError
from utils.video.checks import VIDEO_SUFFIXES, missing_bytes
from utils.video.positions import RELEASED_RULES, Sampling, frame_positions
from utils.video.transforms import ClipTransform

GOLDEN = json.loads((Path(__file__).parent / "golden" / "frame_sampling.json").read_text())
SHARED_VIDEOS = Path(__file__).parents[2] / "shared" / "data" / "videos"
read = partial(read_clip, transform=ClipTransform(32))
WHOLE = {"whole_seconds": True}


def cases(recorded: bool):
    return [
        pytest.param(rule, case, id=f"{rule}-{number}")
        for rule in ("decord", "cv2")
        for number, case in enumerate(GOLDEN[f"{rule}_rule"])
        if ("sample_pos" in case) == recorded
    ]


def positions_of(rule, case, **changes):
    names = ("start", "end", "framerate", "max_frames", "slice_framepos")
    options = {name: case[name] for name in names if name in case}
    sampling = Sampling(**{**WHOLE, **options, **changes}, rule=RELEASED_RULES[rule])
    return frame_positions(case["fps"], case["n_frames"], sampling)


@pytest.mark.parametrize(("rule", "case"), cases(recorded=True))
def test_positions_equal_the_recorded_ones(rule, case):
    positions = positions_of(rule, case)
    assert positions == case["sample_pos"]
    assert [1] * len(positions) + [0] * (case["max_frames"] - len(positions)) == case["mask"]
    if "extracted_pos" in case:
        assert positions_of(rule, case, max_frames=10_000) == case["extracted_pos"]


@pytest.mark.parametrize(("rule", "case"), cases(recorded=False))
def test_every_frame_is_taken_where_the_published_code_fails(rule, case):
    assert positions_of(rule, case, max_frames=10_000) == list(range(case["n_frames"]))


@pytest.mark.parametrize(
    "change", [{"fps": 0.0}, {"fps": float("nan")}, {"framerate": 0}, {"max_frames": 0}, {"rule": "x"}]
)
def test_impossible_sampling_is_refused(change):
    fps = change.pop("fps", 25.0)
    with pytest.raises(ValueError):
        frame_positions(fps, 100, Sampling(**change))


def test_clip_holds_the_frames_at_the_chosen_positions(video_file):
    with av.open(str(video_file)) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    for window in ({}, {"start": 1, "end": 2}, {"rule": "by_second"}):
        clip = read(video_file, framerate=5, **window)
        expected = ClipTransform(32)(decoded[frame_positions(10, 30, Sampling(**WHOLE, framerate=5, **window))])
        assert clip.dtype == torch.uint8
        # The two decoders' colour conversions round differently.
        assert clip.shape == expected.shape
        assert (clip.int() - expected.int()).abs().max() <= 3


def test_augmentation_comes_before_the_transform(video_file):
    clip = read(video_file, augment=lambda frames: 255 - frames)
    assert (clip.int() + read(video_file).int() - 255).abs().max() <= 1


def test_window_behind_the_video_is_an_error(video_file):
    with pytest.raises(InputError, match=r"noise.mp4: no frame between 10 and 20 s, the video lasts 3.0 s"):
        read(video_file, start=10, end=20)


def test_frame_rate_below_the_requested_samples(tmp_path):
    path = write_video(tmp_path / "slow.mp4", seconds=8, fps=1)
    assert len(read(path, framerate=4)) == 8


def audio_only(path, whole):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def noise_in_the_middle(path, whole):
    third = len(whole) // 3
    path.write_bytes(whole[:third] + np.random.default_rng(0).bytes(third) + whole[2 * third :])


BROKEN = {
    "missing": (lambda path, whole: None, "No such file"),
    "folder": (lambda path, whole: path.mkdir(), "Is a directory"),
    "empty": (lambda path, whole: path.touch(), "is empty"),
    "truncated": (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), "is truncated"),
    "nearly whole": (lambda path, whole: path.write_bytes(whole[:-1]), "is truncated, 1 bytes"),
    "header only": (lambda path, whole: path.write_bytes(whole[:20]), "cannot be decoded"),
    "text": (lambda path, whole: path.write_text("<html>404 Not Found</html>\n" * 50), "cannot be decoded"),
    "random": (lambda path, whole: path.write_bytes(np.random.default_rng(0).bytes(50_000)), "cannot be decoded"),
    "random in a box": (
        lambda path, whole: path.write_bytes(whole[:24] + np.random.default_rng(0).bytes(50_000)),
        "cannot be decoded",
    ),
    "zeroed": (
        lambda path, whole: path.write_bytes(whole[: len(whole) // 3].ljust(len(whole), b"\0")),
        "cannot be decoded",
    ),
    "overwritten": (noise_in_the_middle, "cannot be decoded"),
    "audio only": (audio_only, "cannot find video stream"),
}


@pytest.mark.parametrize(("breaking", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_file_is_one_line_with_name_and_reason(video_file, tmp_path, breaking, reason):
    path = tmp_path / "broken.mp4"
    breaking(path, video_file.read_bytes())
    begin = time.monotonic()
    with pytest.raises(InputError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message
    assert ".cc:" not in message
    assert time.monotonic() - begin < 5


def test_text_under_its_own_name_is_not_played(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("a decoder plays this as a picture of letters\n" * 50)
    with pytest.raises(InputError, match="no video by its name"):
        read(path)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".webm", "libvpx"), (".mkv", "libx264"), (".avi", "mpeg4")]
)
def test_containers_are_read_whole_and_refused_cut(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"whole{suffix}", codec=codec)
    assert missing_bytes(path) == 0
    assert len(read(path)) == 3
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert missing_bytes(cut) > 0
    with pytest.raises(InputError, match="is truncated"):
        read(cut)


def test_live_recordings_declare_no_length(tmp_path, video_file):
    path = tmp_path / "live.mkv"
    # An unknown segment length is eight bits of width and ones throughout.
    header = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7
    path.write_bytes(header + b"\0" * 8)
    assert missing_bytes(path) == 0
    path.write_bytes(header[:-7] + (100).to_bytes(7, "big") + b"\0" * 8)
    assert missing_bytes(path) == 92


def test_boxes_of_long_open_and_broken_length(tmp_path):
    path = tmp_path / "boxes.mp4"
    first = (16).to_bytes(4, "big") + b"ftypisom" + bytes(4)
    for header, missing in (
        ((1).to_bytes(4, "big") + b"mdat" + (116).to_bytes(8, "big"), 90),
        ((0).to_bytes(4, "big") + b"mdat", 0),
        ((116).to_bytes(4, "big") + b"mdat", 98),
        ((116).to_bytes(4, "big") + b"junk", 0),
    ):
        path.write_bytes(first + header + bytes(10))
        assert missing_bytes(path) == missing


@pytest.mark.parametrize("rule", RELEASED_RULES.values())
def test_real_videos(rule):
    if not SHARED_VIDEOS.is_dir():
        pytest.skip(f"no folder {SHARED_VIDEOS}")
    paths = sorted(SHARED_VIDEOS.glob("*.mp4"))
    assert paths
    for path in paths:
        clip = read(path, rule=rule)
        assert clip.shape[1:] == (3, 32, 32)
        assert 1 < len(clip) <= 12
        assert all(frame.float().std() > 5 for frame in clip)
        assert not any(torch.equal(one, other) for one, other in zip(clip, clip[1:], strict=False))


@pytest.fixture
def folder(tmp_path):
    names = "video1.mp4 deep/er/video2.webm v_abc.mkv def.MP4 video1.avi notes.txt a.b-c.d.avi deep/video1.mp4"
    for name in names.split():
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    (tmp_path / "secret.mp4").touch()
    return tmp_path / "videos"


def test_files_are_found_by_every_spelling(folder):
    ids = ["video2", "video1", "abc", "v_abc", "v_def", "def.mp4", "a.b-c.d", "a.b-c.d.avi", "video2.mp4", "video1"]
    found = find_videos(folder, ids)
    assert list(found) == ids[:-1]
    assert [str(path.relative_to(folder)) for path in found.values()] == [
        "deep/er/video2.webm", "video1.mp4", "v_abc.mkv", "v_abc.mkv", "def.MP4", "def.MP4",
        "a.b-c.d.avi", "a.b-c.d.avi", "deep/er/video2.webm",
    ]  # fmt: skip


@pytest.mark.parametrize("video_id", ["../secret", "notes", "notes.txt", "deep", "/video1", "", "video"])
def test_nothing_else_is_found(folder, video_id):
    with pytest.raises(InputError, match="1 of 2 videos are missing"):
        find_videos(folder, ["video1", video_id])


def test_a_path_within_the_folder_is_an_id(folder):
    found = find_videos(folder, ["deep/video1", "deep/er/video2.webm", "video1"])
    names = [path.relative_to(folder).as_posix() for path in found.values()]
    assert names == ["deep/video1.mp4", "deep/er/video2.webm", "video1.mp4"]


def test_a_name_in_two_folders_is_ambiguous(tmp_path):
    for name in ("cam1/0001.mp4", "cam2/0001.mp4", "cam2/0002.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for options in ({}, {"skip_missing": True}):
        with pytest.raises(InputError, match="0001 may be cam1/0001.mp4 or cam2/0001.mp4; write the path in the annot"):
            find_videos(tmp_path, ["0002", "0001"], **options)
    assert list(find_videos(tmp_path, ["cam1/0001", "cam2/0001.mp4", "0002"])) == ["cam1/0001", "cam2/0001.mp4", "0002"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_composed_and_decomposed_letters_are_the_same(tmp_path, forms):
    name, video_id = (normalize(form, "caf\u00e9") for form in forms)
    (tmp_path / f"{name}.mp4").touch()
    assert find_videos(tmp_path, [video_id]) == {video_id: tmp_path / f"{name}.mp4"}


def test_a_name_that_is_not_utf8_is_read(tmp_path, video_file):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    path.write_bytes(video_file.read_bytes())
    assert len(read(path)) == 3
    assert find_videos(tmp_path, [path.stem]) == {path.stem: path}
    path.write_bytes(b"")
    with pytest.raises(InputError) as raised:
        read(path)
    assert str(raised.value).isprintable() and "udce9" in str(raised.value)


def test_missing_videos_are_counted_named_and_listed(folder, tmp_path, caplog):
    ids = ["video1", *(f"gone{number}" for number in range(7))]
    missing_list = tmp_path / "out" / "missing.txt"
    shown = r"7 of 8 videos are missing: gone0, gone1, gone2, gone3, gone4, \.\.\. .*missing.txt"
    with pytest.raises(InputError, match=shown):
        find_videos(folder, ids, missing_list=missing_list)
    assert missing_list.read_text().split() == ids[1:]
    assert list(find_videos(folder, ids, skip_missing=True)) == ["video1"]
    assert "7 of 8 videos are missing" in caplog.text


def test_no_video_at_all_is_an_error_even_when_skipping(folder):
    with pytest.raises(InputError, match="--video_path"):
        find_videos(folder, ["gone"], skip_missing=True)
    with pytest.raises(InputError, match="no such folder"):
        find_videos(folder / "nowhere", ["video1"])


def test_many_videos_are_found_without_a_look_at_each(tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"video{number}{VIDEO_SUFFIXES[number % 3]}").touch()

    def refuse(*arguments, **options):
        raise AssertionError("one directory scan is enough")

    monkeypatch.setattr(Path, "exists", refuse)
    monkeypatch.setattr(Path, "is_file", refuse)
    assert len(find_videos(tmp_path, [f"video{number}" for number in range(300)])) == 300
