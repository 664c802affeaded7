"""Data checks: every kind of bad video is found, and training uses the skip list."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from scripts.check_data import main
from scripts.inspection import find_duplicates, inspect_video
from tests.conftest import write_video
from tests.formats import write_format
from tests.test_video import audio_only
from utils.errors import InputError

CHECK = ["--workers", "1"]


def without_time_scale(path):
    """Set the time scale of the track to 0, from which its frame rate is computed."""
    content = bytearray(path.read_bytes())
    place = content.index(b"mdhd") + 16
    content[place : place + 4] = bytes(4)
    path.write_bytes(content)


HARM = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "undecodable": lambda path: path.write_text("a text that was given another name\n" * 20),
    "frame rate": without_time_scale,
    "one frame": lambda path: write_video(path, seconds=0.1),
}


@pytest.mark.parametrize("kind", HARM)
def test_each_kind_of_bad_file_is_distinguished(tmp_path, kind):
    path = write_video(tmp_path / "video.mp4")
    assert inspect_video(path).problem is None
    assert inspect_video(path).seconds == 3
    HARM[kind](path)
    assert inspect_video(path).problem == kind


def test_audio_without_pictures_is_no_video(tmp_path):
    audio_only(tmp_path / "sound.mp4", None)
    assert inspect_video(tmp_path / "sound.mp4").problem == "undecodable"
    assert "video stream" in inspect_video(tmp_path / "sound.mp4").reason


@pytest.mark.parametrize("part", [0.35, 0.6, 0.9])
def test_frames_are_decoded_in_several_places(tmp_path, part):
    path = write_video(tmp_path / "video.mp4")
    content = bytearray(path.read_bytes())
    place = int(part * len(content))
    content[place : place + len(content) // 4] = np.random.default_rng(0).bytes(len(content) // 4)
    path.write_bytes(content)
    assert inspect_video(path).problem in ("undecodable", "truncated")


def test_a_file_without_permission_or_a_folder_is_unreadable(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    assert inspect_video(tmp_path / "folder.mp4").problem == "unreadable"


def test_duplicates_are_files_of_the_same_bytes(tmp_path):
    contents = {"a": b"same", "b": b"same", "c": b"else", "d": b"longer", "e": b"", "f": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert find_duplicates(sorted(tmp_path.iterdir())) == [[tmp_path / "a", tmp_path / "b"]]


def test_frames_that_cannot_be_reached_by_time_are_unreliable(tmp_path):
    whole = write_video(tmp_path / "whole.ts", codec="mpeg2video", fps=25)
    path = tmp_path / "twice.ts"
    path.write_bytes(whole.read_bytes() * 2)
    assert inspect_video(whole).problem is None
    found = inspect_video(path)
    assert (found.problem, found.reason) == ("unreliable", "has time stamps that run backwards or are missing")


def test_the_windows_of_training_are_decoded(tmp_path):
    path = write_video(tmp_path / "video.mp4")
    assert inspect_video(path, [(0, 1), (1, 3)], rule="by_second", whole_seconds=True).problem is None
    found = inspect_video(path, [(0, 1), (7, 9)])
    assert found.problem == "window"
    assert found.reason == "no frame between 7 and 9 s, the video lasts 3.0 s"


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    return {name: write_format(name, tmp_path_factory.mktemp(name)) for name in ("msvd", "msrvtt", "csv")}


def words(datatype, root, output, *more):
    paths = ["--anno_path", root / "anns", "--video_path", root / "videos", "--output_dir", output]
    return ["--datatype", datatype, *map(str, paths), *CHECK, *more]


def test_a_folder_with_every_problem(formats, tmp_path, capsys):
    root = Path(shutil.copytree(formats["msvd"], tmp_path / "data"))
    videos = root / "videos"
    for name, kind in zip(("two", "three", "four", "five", "six"), HARM, strict=True):
        HARM[kind](videos / f"{name}.mp4")
    (videos / "seven.mp4").unlink()
    shutil.copy(videos / "one.avi", videos / "eight.mp4")
    report = main(words("msvd", root, tmp_path / "out"))
    found = {kind: [entry["video_id"] for entry in entries] for kind, entries in report["problems"].items() if entries}
    assert found == {
        "missing": ["seven"], "empty": ["two"], "truncated": ["three"], "undecodable": ["four"],
        "frame rate": ["five"], "one frame": ["six"], "duplicate": ["eight"],
    }  # fmt: skip
    assert (tmp_path / "out" / "skip_list.txt").read_text().split() == ["two", "three", "four", "five", "seven"]
    assert json.loads((tmp_path / "out" / "data_report.json").read_text()) == report
    text = capsys.readouterr().out
    for kind in found:
        assert f"\n{kind} " in text
    assert "5 videos to skip" in text


def test_a_file_that_cannot_be_read_is_reported_and_compared_with_none(formats, tmp_path):
    root = Path(shutil.copytree(formats["csv"], tmp_path / "data"))
    (root / "videos" / "one.mp4").unlink()
    (root / "videos" / "one.mp4").symlink_to("nowhere.mp4")
    report = main(words("csv", root, tmp_path / "out"))
    assert [entry["video_id"] for entry in report["problems"]["unreadable"]] == ["one"]
    assert report["skip"] == ["one"]


def test_a_name_in_two_folders_is_reported(formats, tmp_path):
    root = Path(shutil.copytree(formats["csv"], tmp_path / "data"))
    for camera in ("a", "b"):
        (root / "videos" / camera).mkdir()
        shutil.copy(root / "videos" / "one.mp4", root / "videos" / camera)
    (root / "videos" / "one.mp4").unlink()
    report = main(words("csv", root, tmp_path / "out"))
    (entry,) = report["problems"]["ambiguous"]
    assert entry["video_id"] == "one" and "a/one.mp4 or " in entry["reason"]
    assert report["skip"] == ["one"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_all_bad_rows_are_listed(formats, tmp_path, kind, capsys):
    root = Path(shutil.copytree(formats["csv"], tmp_path / "data"))
    rows = [("one", "a caption", "", ""), ("two", " ", "", ""), ("one", "fine", "1", "2"), ("four", "late", "3", "1")]
    (root / "anns" / "train.csv").unlink()
    if kind == "csv":
        lines = ["video,caption,start,end", *map(",".join, rows), "one,too,1,2,many"]
        bad = {3: "is empty", 5: "not before its end", 6: "needs 4 values"}
    else:
        names = ("video", "caption", "start", "end")
        lines = [*(json.dumps(dict(zip(names, row, strict=True))) for row in rows), "{"]
        bad = {2: "is empty", 4: "not before its end", 5: "JSON"}
    (root / "anns" / f"train.{kind}").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"\(and 2 more bad rows\)$") as error:
        main(words("csv", root, tmp_path / "out"))
    assert "\n" not in str(error.value)
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(bad)
    for line, (number, reason) in zip(listed, bad.items(), strict=True):
        assert f"line {number}" in line and reason in line
    copied = pickle.loads(pickle.dumps(error.value))  # as it comes from another process
    assert copied.reasons == error.value.reasons and str(copied) == str(error.value)


def test_sizes_are_printed_with_the_published_ones(formats, tmp_path, capsys):
    report = main(words("msvd", formats["msvd"], tmp_path))
    assert report["splits"]["train"] == {
        "videos": 4, "captions": 7, "published videos": 1200, "published captions": 48774,
        "captions of a clip": {"least": 1, "median": 1.5, "most": 3},
        "words of a caption": {"least": 2, "median": 4, "most": 4},
        "seconds of a video": {"least": 2, "median": 2, "most": 2},
    }  # fmt: skip
    assert list(report["splits"]) == ["train", "val", "test"]
    assert report["skip"] == [] and report["shared"] == {}
    assert "all videos are there and whole" in capsys.readouterr().out


def test_videos_in_two_splits_are_named(formats, tmp_path):
    report = main(words("msrvtt", formats["msrvtt"], tmp_path, "--msrvtt_split", "1kB"))
    assert list(report["splits"]) == ["train", "test"]
    assert report["splits"]["train"]["published videos"] == 6656
    assert report["shared"] == {}
    root = Path(shutil.copytree(formats["csv"] / "anns", tmp_path / "anns"))
    shutil.copy(root / "train.csv", root / "test.csv")
    paths = ["--anno_path", str(root), "--video_path", str(formats["csv"] / "videos"), "--output_dir", str(tmp_path)]
    report = main(["--datatype", "csv", *paths, *CHECK])
    assert report["shared"] == {"train and test": ["four", "one", "three", "two"]}
    assert report["splits"]["train"]["published videos"] is None


def test_any_number_of_workers_finds_the_same(formats, tmp_path, capsys):
    reports = [main([*words("csv", formats["csv"], tmp_path), "--workers", workers]) for workers in ("0", "2")]
    assert reports[0] == reports[1]
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*words("csv", formats["csv"], tmp_path), "--workers", "-1"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "--workers: a whole number is needed, 0 or more" in line
