"""Features of a folder and of a data set: values, resuming, several processes."""

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from models.shortlist import vectors
from scripts import extract_features
from tests.conftest import write_video
from tests.processes import run_together, script
from utils.errors import InputError
from utils.video.decode import decode_clip
from utils.video.transforms import ClipTransform

ROOT = Path(__file__).parents[1]
FRAMES = 4


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos, the second of which is broken."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate("acde"):
        write_video(folder / f"{name}.mp4", hue=number, seconds=1 + number)
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes()[:2000])
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(extract_features, "PART", 2)


@pytest.fixture
def extract(checkpoint, videos, tmp_path):
    def call(name="features", *words):
        paths = ["--checkpoint", checkpoint, "--video_path", videos, "--output", tmp_path / name, "--workers", 0]
        sizes = ["--max_frames", FRAMES, "--batch_size", 2, "--device", "cpu"]
        extract_features.main([*map(str, [*paths, *sizes]), *map(str, words)])
        return tmp_path / name

    return call


def tables(folder):
    return [pyarrow.parquet.read_table(path) for path in sorted((folder / "parts").iterdir())]


def test_a_row_holds_what_the_model_encodes(extract, model, videos, capsys):
    folder = extract()
    assert "4 clips in parts, vectors.npy and tokens.npy, 1 skipped" in capsys.readouterr().out
    rows = [row for table in tables(folder) for row in table.to_pylist()]
    assert [row["video"] for row in rows] == [f"{name}.mp4" for name in "abcde"]
    kept_vectors, kept_tokens = np.load(folder / "vectors.npy"), np.load(folder / "tokens.npy", mmap_mode="r")
    for place, row in enumerate(rows):
        if row["video"] == "b.mp4":
            assert row["vector"] is None and row["frames"] == 0 and row["reason"]
            assert np.isnan(kept_vectors[place]).all() and np.isnan(kept_tokens[place]).all()
            continue
        tokens, mask = model.encode_video([videos / row["video"]], max_frames=FRAMES)
        valid = tokens[0, mask[0].bool()]
        assert row["frames"] == len(valid) and not row["reason"]
        assert torch.allclose(torch.tensor(row["tokens"]).view_as(valid), valid, atol=1e-5)
        assert torch.allclose(torch.tensor(kept_tokens[place, : len(valid)]), valid, atol=1e-5)
        assert not kept_tokens[place, len(valid) :].any()
        expected = vectors(model, tokens, mask, "video")[0]
        assert torch.allclose(torch.tensor(row["vector"]), expected, atol=1e-5)
        assert torch.allclose(torch.tensor(kept_vectors[place]), expected, atol=1e-5)


def test_a_run_that_was_cut_short_goes_on_behind_its_parts(extract, monkeypatch):
    folder = extract()
    before = tables(folder)
    (folder / "parts" / "000001.parquet").unlink()
    encoded = []
    encode = extract_features.encode_part

    def count(model, clips, rows, args):
        encoded.append(list(rows))
        return encode(model, clips, rows, args)

    monkeypatch.setattr(extract_features, "encode_part", count)
    extract()
    assert encoded == [[2, 3]] and tables(folder) == before


def test_other_videos_and_other_sampling_are_refused(extract):
    extract()
    with pytest.raises(InputError, match="was made of other videos, or otherwise; give another --output"):
        extract("features", "--video_framerate", 2)
    with pytest.raises(InputError, match="no such folder, or no video in it"):
        extract("other", "--video_path", ROOT / "docs")


def test_the_clips_of_a_data_set(extract, msrvtt_folder, capsys):
    words = ["--datatype", "msrvtt", "--anno_path", msrvtt_folder / "anns", "--video_path", msrvtt_folder / "videos"]
    folder = extract("features", *words)
    assert [row["video"] for table in tables(folder) for row in table.to_pylist()] == ["video4", "video5"]
    assert "2 clips in parts" in capsys.readouterr().out


@pytest.mark.parametrize(("flag", "rule"), [("cv2", "by_second"), ("decord", "stepped")])
def test_the_frame_rule_of_the_command_line(extract, model, videos, flag, rule):
    folder = extract(flag, "--frame_rule", flag, "--video_framerate", 3)
    frames = decode_clip(videos / "a.mp4", rule=rule, framerate=3, max_frames=FRAMES)
    stack = ClipTransform(model.clip.config.resolution)(frames)[None]
    expected = model.frame_tokens(stack, torch.ones(stack.shape[:2], dtype=torch.long))
    (row,) = (row for table in tables(folder) for row in table.to_pylist() if row["video"] == "a.mp4")
    assert torch.allclose(torch.tensor(row["tokens"]).view_as(expected), expected, atol=1e-5)


def extract_in_parts(words):
    extract_features.PART = 2
    script(extract_features.main, *words)


def test_two_processes_share_the_parts(extract, checkpoint, videos, tmp_path):
    alone = extract()
    words = ["--checkpoint", checkpoint, "--video_path", videos, "--output", tmp_path / "two", "--workers", 0,
             "--max_frames", FRAMES, "--batch_size", 2, "--device", "cpu"]  # fmt: skip
    said = run_together(tmp_path / "log.txt", 2, extract_in_parts, words)
    assert said.count("4 clips in parts") == 1
    for name in ("vectors.npy", "tokens.npy"):
        np.testing.assert_allclose(np.load(tmp_path / "two" / name), np.load(alone / name), atol=1e-6)
    assert [table.drop(["vector", "tokens"]) for table in tables(tmp_path / "two")] == [
        table.drop(["vector", "tokens"]) for table in tables(alone)
    ]
