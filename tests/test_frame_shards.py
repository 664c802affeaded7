"""Shards of decoded frames: as good as the videos, written to the end after a kill, refused if they do not fit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from webdataset import WebDataset

import main_retrieval
from dataloaders.base import ClipDataset
from dataloaders.build import clip_reader, find_split
from dataloaders.frame_shards import FrameShards
from dataloaders.question_answering import find_questions
from models import ANSWER_METHODS, CLIP, HBI, HBIVQA, METHODS
from scripts import shard_frames
from tests.conftest import SMALL, write_video
from tests.formats import FORMATS, write_format
from tests.processes import run_together, script
from tests.retrieval_case import read_metrics
from tests.test_safety import snapshot
from utils.args import question_parser, retrieval_parser
from utils.checkpoint import read_weights, save_weights
from utils.errors import InputError
from utils.video.decode import decode_clip

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
NAMES = "abcde"
WINDOW = {"framerate": 1, "max_frames": 4, "rule": "stepped", "slice_framepos": 2, "whole_seconds": False}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos, of which c is cut short and e is in a subfolder."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        write_video(folder / ("deep" if name == "e" else "") / f"{name}.mp4", hue=number, seconds=1 + number)
    (folder / "c.mp4").write_bytes((folder / "a.mp4").read_bytes()[:2000])
    return folder


def words(videos, output, *more):
    flags = {"video_path": videos, "output": output, "max_frames": 4, "shard_clips": 2, "workers": 0}
    return [*(str(word) for name, value in flags.items() for word in (f"--{name}", value)), *map(str, more)]


@pytest.fixture(scope="module")
def shards(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "shards"
    shard_frames.main(words(videos, folder))
    return folder


def files(folder):
    return {name: content for name, content in snapshot(folder).items() if name.endswith((".tar", ".json"))}


def test_frames_are_the_decoded_ones_and_reasons_are_kept(videos, shards, tmp_path, capsys):
    stored = FrameShards(shards)
    assert [path.relative_to(shards).as_posix() for path in stored.videos] == [
        "a.mp4", "b.mp4", "c.mp4", "d.mp4", "deep/e.mp4",
    ]  # fmt: skip
    for path in stored.videos:
        video = videos / path.relative_to(shards)
        if path.name == "c.mp4":
            with pytest.raises(InputError, match=f"{video}: .*"):
                stored.read(path)
            continue
        assert np.array_equal(stored.read(path), decode_clip(video, **WINDOW))
    shard_frames.main(words(videos, tmp_path / "compact", "--form", "compact", "--isolate_decoder"))
    *skipped, last = capsys.readouterr().out.splitlines()
    assert len(skipped) == 1 and skipped[0].startswith(f"skipped c.mp4: {videos}/c.mp4: ")
    assert last.startswith(f"{tmp_path}/compact: 4 clips in 3 shards, ") and last.endswith(" GB, 1 skipped")
    compact, path = FrameShards(tmp_path / "compact"), tmp_path / "compact" / "d.mp4"
    assert 0 < np.abs(compact.read(path).astype(int) - stored.read(shards / "d.mp4")).mean() < 10


def test_webdataset_reads_the_shards_from_end_to_end(videos, shards):
    pattern = str(shards / "{000000..000002}.tar")
    samples = list(WebDataset(pattern, shardshuffle=False))
    names = [json.loads(sample["json"])["video"] for sample in samples]
    assert names == ["a.mp4", "b.mp4", "d.mp4", "deep/e.mp4"]
    for name, sample in zip(names, samples, strict=True):
        assert np.array_equal(load(sample["safetensors"])["frames"], decode_clip(videos / name, **WINDOW))


STANDING = """
import sys, time
from scripts import shard_frames
decode = shard_frames.decode_clip
def decode_until_d(path, **sampling):
    if path.stem == "d":
        print("half", flush=True)
        time.sleep(600)
    return decode(path, **sampling)
shard_frames.decode_clip = decode_until_d
shard_frames.main(sys.argv[1:])
"""


def test_a_run_killed_half_way_resumes_behind_its_last_shard(videos, shards, tmp_path):
    folder = tmp_path / "shards"
    command = [sys.executable, "-c", STANDING, *words(videos, folder)]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert [name for name in files(folder) if name[0] == "0"] == ["000000.json", "000000.tar"]
    assert len(list(folder.glob(".000001.tar.*"))) == 1
    with pytest.raises(InputError, match=r"000001.json: is missing; .* scripts/shard_frames.py"):
        FrameShards(folder)
    first = (folder / "000000.tar").stat().st_mtime_ns
    shard_frames.main(words(videos, folder))
    assert snapshot(folder) == snapshot(shards)
    assert (folder / "000000.tar").stat().st_mtime_ns == first


def test_a_shard_cut_short_is_written_again(videos, shards, tmp_path):
    folder = tmp_path / "shards"
    shard_frames.main(words(videos, folder))
    for name, size in (("000001.tar", 5000), ("000002.json", 20)):
        os.truncate(folder / name, size)
    shard_frames.main(words(videos, folder))
    assert snapshot(folder) == snapshot(shards)


def test_two_processes_with_workers_write_the_same_shards(videos, shards, tmp_path):
    parts = words(videos, tmp_path / "two", "--workers", 1)
    said = run_together(tmp_path / "log.txt", 2, script, shard_frames.main, *parts)
    assert said.count("4 clips in 3 shards") == said.count("skipped c.mp4") == 1
    assert snapshot(tmp_path / "two") == snapshot(shards)


def test_an_output_of_other_clips_frames_or_files_is_refused(videos, shards):
    before = snapshot(shards)
    for change in (["--video_framerate", 2], ["--form", "compact"], ["--shard_clips", 3], ["--frame_rule", "cv2"]):
        with pytest.raises(InputError, match="was made of other videos, or otherwise; give another --output"):
            shard_frames.main(words(videos, shards, *change))
    with pytest.raises(InputError, match="is, contains or is inside .* give another --output"):
        shard_frames.main(words(videos, videos / "deep"))
    assert snapshot(shards) == before


def retrieval_args(datatype, root, video_path, *more):
    flags = {"datatype": datatype, "anno_path": root / "anns", "video_path": video_path, "output_dir": root / "out"}
    named = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    return retrieval_parser(METHODS, HBI.add_arguments).parse_args([*named, "--max_frames", "2", "--do_eval", *more])


def frames_of(args, name):
    split, videos = find_split(args, name)
    clips = ClipDataset(split, videos, clip_reader(args, 32))
    return {clip: clips[number]["frames"] for number, clip in enumerate(clips.clips)}


@pytest.mark.parametrize("datatype", FORMATS)
def test_shards_of_a_data_set_hold_the_clips_of_its_splits(datatype, tmp_path):
    root, output = write_format(datatype, tmp_path / "data"), tmp_path / "shards"
    shard_frames.main(words(root / "videos", output, "--datatype", datatype, "--anno_path", root / "anns",
                            "--max_frames", 2))  # fmt: skip
    for name in ("train", "val", "test"):
        decoded, stored = (frames_of(retrieval_args(datatype, root, path), name) for path in (root / "videos", output))
        assert decoded.keys() == stored.keys() and decoded
        assert all(torch.equal(stored[clip], frames) for clip, frames in decoded.items())


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory):
    """MSR-VTT's folder with a broken training video, and the shards of all its videos."""
    root = write_format("msrvtt", tmp_path_factory.mktemp("data") / "msrvtt")
    path = root / "videos" / "video2.mp4"
    path.write_bytes(path.read_bytes()[:-50])
    shard_frames.main(words(root / "videos", root / "shards", "--datatype", "msrvtt", "--max_frames", 2))
    return root


def test_training_from_shards_is_training_from_videos(msrvtt, tmp_path):
    torch.manual_seed(0)
    save_weights(CLIP(SMALL).state_dict(), tmp_path / "clip.pt")
    sizes = ["--base_encoder", tmp_path / "clip.pt", "--num_hidden_layers", 1, "--max_words", 8, "--max_frames", 2]
    sizes += ["--epochs", 1, "--batch_size", 2, "--workers", 1, "--device", "cpu", "--skl", 0]
    data = ["--do_train", "--anno_path", msrvtt / "anns", "--max_bad_videos", 0.25]
    for name in ("videos", "shards"):
        own = ["--video_path", msrvtt / name, "--output_dir", tmp_path / name]
        main_retrieval.main([*map(str, [*data, *own, *sizes])])
    by_videos, by_shards = (read_weights(tmp_path / name / "pytorch_model.bin.0") for name in ("videos", "shards"))
    assert all(torch.equal(by_shards[name], tensor) for name, tensor in by_videos.items())
    assert read_metrics(tmp_path / "shards") == read_metrics(tmp_path / "videos")
    skipped = [(tmp_path / name / "bad_videos.txt").read_text() for name in ("videos", "shards")]
    assert skipped[0] == skipped[1] and skipped[0].startswith("video2\t")


def test_questions_find_their_videos_in_shards(msrvtt, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"question": "what?", "answer": "noise", "video_id": "video1", "answer_type": "what"}))
    args = question_parser(ANSWER_METHODS, HBIVQA.add_arguments).parse_args(
        ["--features_path", str(msrvtt / "shards"), "--val_csv", str(path), "--output_dir", str(tmp_path),
         "--max_frames", "2", "--do_eval"]
    )  # fmt: skip
    assert find_questions(args, "test", args.val_csv)[1] == {"video1": msrvtt / "shards" / "video1.webm"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max_frames", "3"], "its frames were taken with max_frames 2, not 3; give the flags"),
        (["--frame_rule", "cv2", "--video_framerate", "2"], "framerate 1, not 2, rule stepped, not by_second; give"),
        (["--frame_cache", "cache"], "holds decoded frames already; leave --frame_cache out"),
    ],
)
def test_other_frames_are_refused(msrvtt, more, message):
    with pytest.raises(InputError, match=message):
        frames_of(retrieval_args("msrvtt", msrvtt, msrvtt / "shards", *more), "test")


def test_clips_that_the_shards_lack_are_named(tmp_path):
    root = write_format("activity", tmp_path / "data")
    shard_frames.main(words(root / "videos", tmp_path / "whole", "--datatype", "activity", "--max_frames", 2))
    with pytest.raises(InputError, match=r"has no frames of one.mp4 from 0 s to 2 s; make shards of this data set"):
        find_split(retrieval_args("activity", root, tmp_path / "whole"), "train")


def test_missing_videos_are_left_out_on_request(tmp_path):
    root = write_format("csv", tmp_path / "data")
    (root / "videos" / "two.mp4").unlink()
    line = words(root / "videos", tmp_path / "shards", "--anno_path", root / "anns", "--max_frames", 2)
    with pytest.raises(InputError, match="1 of 8 videos are missing: two; add them or give --skip_missing_videos"):
        shard_frames.main(line)
    shard_frames.main([*line, "--skip_missing_videos"])
    with pytest.raises(InputError, match="1 of 4 videos are missing: two .*; add them or give --skip_missing_videos"):
        find_split(retrieval_args("csv", root, tmp_path / "shards"), "train")
    found = find_split(retrieval_args("csv", root, tmp_path / "shards", "--skip_missing_videos"), "train")[1]
    assert list(found) == ["one", "three", "four"]


@pytest.fixture
def copied(msrvtt, tmp_path):
    """A copy of the shards, in which a test may damage one."""
    for name, content in files(msrvtt / "shards").items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def foreign(path):
    path.write_bytes(bytes(path.stat().st_size))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGES = {
    "truncated": (lambda folder: os.truncate(folder / "000001.tar", 4000), r"000001.tar: has 4000 bytes, but \d+ were"),
    "foreign": (lambda folder: foreign(folder / "000003.tar"), r"000003.tar: the frames of video7010.mp4 are damaged"),
    "missing": (lambda folder: (folder / "000002.tar").unlink(), r"000002.tar: is missing"),
    "foreign index": (lambda folder: (folder / "000001.json").write_text("[]"), r"000001.json: content: .*"),
    **{
        name: (
            lambda folder, name=name: edit(folder / "000001.json", "video2.mp4", name),
            r"000001.json: clips.0.video: .*no video's path",
        )
        for name in ("/etc/passwd.mp4", "../video2.mp4", "passwd")
    },
    **{
        f"large {field}": (
            lambda folder, field=field: edit(folder / "000001.json", f'"{field}": ', f'"{field}": 9'),
            r"000001.tar: has 30720 bytes, but \d+ were",
        )
        for field in ("offset", "size")
    },
    "foreign list": (lambda folder: (folder / "frame_shards.json").write_text("{}"), "frame_shards.json: sampling: "),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_line_with_the_file_and_a_remedy(msrvtt, copied, name):
    damage, message = DAMAGES[name]
    assert frames_of(retrieval_args("msrvtt", msrvtt, copied), "test")
    damage(copied)
    with pytest.raises(InputError, match=f"{message}.*; copy it again") as raised:
        frames_of(retrieval_args("msrvtt", msrvtt, copied), "test")
    assert "\n" not in str(raised.value)
