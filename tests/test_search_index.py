"""Making and updating an index: computed videos, recovery from a kill, and refused input."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from models import CLIP, HBI
from scripts import search
from scripts.searching import build
from scripts.searching.about import Sampling
from scripts.searching.compression import compress, restore
from scripts.searching.query import VideoIndex
from scripts.searching.rows import Details, file_name, stored_name
from scripts.searching.segments import Finished, SegmentReader
from scripts.searching.spans import longer, shots, windows
from scripts.searching.store import Store
from tests.conftest import SMALL, write_video
from tests.numbered import numbers_of, write_numbered
from tests.processes import finish, run_together, script, start
from tests.search_case import SAMPLING, SIZES, content, counts, make_index, write_videos
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError


def be_killed(method, after, words):
    """Run scripts/search.py in this process, which is killed at a call of a method of its store."""
    build.ROWS_TOGETHER = 1
    call, calls = getattr(Store, method), []

    def killed(self, *arguments, **options):
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return call(self, *arguments, **options)

    setattr(Store, method, killed)
    script(search.main, *words)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def videos(originals, tmp_path):
    return Path(shutil.copytree(originals, tmp_path / "videos"))  # with the times of change


@pytest.fixture
def update(model, checkpoint, videos, tmp_path):
    def call(name="index", **options):
        return make_index(model, checkpoint, options.pop("folder", videos), tmp_path / name, **options)

    return call


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.1, [(0, 0.1)]),
        (30, [(0, 30)]),
        (30.5, [(0, 30), (20, 30.5)]),
        (50, [(0, 30), (20, 50)]),
        (65.7, [(0, 30), (20, 50), (40, 65.7)]),
    ],
)
def test_long_videos_are_cut_into_overlapping_segments(seconds, expected):
    assert windows(seconds, 30, 10) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, []), (2, [(0, 2)]), (3, [(0, 3)]), (4, [(0, 4)]), (5, [(0, 4), (2, 5)]), (7, [(0, 4), (2, 6), (4, 7)])],
)
def test_longer_segments_cover_neighbours_up_to_the_end(number, expected):
    spans = [(float(start), start + 1.0) for start in range(number)]
    assert longer(spans, 4) == expected
    assert longer(spans, 0) == longer(spans, 1) == []


def test_shots_end_where_the_picture_changes(tmp_path):
    path = tmp_path / "cuts.mp4"
    write_video(path, seconds=6, fps=10, black=30)
    assert shots(path, 6.0, 30, 10) == [(0, pytest.approx(3, abs=0.11)), (pytest.approx(3, abs=0.11), 6)]
    assert [end - start for start, end in shots(path, 6.0, 2, 1)] == pytest.approx([2, 2, 2, 2], abs=0.11)


@pytest.mark.parametrize(("bits", "error"), [(16, 1e-3), (8, 0.01), (4, 0.15)])
def test_tokens_come_back_nearly_the_same_in_fewer_bits(bits, error):
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(5, 64), dim=1)
    tokens = 3 * (vectors.unsqueeze(1) + torch.randn(5, 4, 64) / 8)
    columns = compress(tokens, vectors, bits)
    assert columns["tokens"].nbytes == tokens.numel() * bits // 8
    found = restore(columns, vectors, bits)
    assert error / 20 < ((found - tokens).norm(dim=2) / tokens.norm(dim=2)).max() < error


def test_only_what_changed_is_computed(update, videos, tmp_path):
    assert counts(update()) == (4, 0, 0, 0, 0)
    assert [row["start"] for row in content(tmp_path / "index") if row["video"] == "long.mp4"] == [0, 5, 10, 15]
    assert counts(update()) == (0, 4, 0, 0, 0)
    write_video(videos / "added.mp4", hue=7)
    write_video(videos / "b.mp4", hue=6, seconds=2)
    assert counts(update()) == (2, 3, 0, 0, 0)
    (videos / "a.mp4").unlink()
    os.utime(videos / "long.mp4", (10**9, 10**9))  # touched
    (videos / "added.mp4").rename(videos / "deeper" / "moved.mp4")
    assert counts(update()) == (0, 3, 1, 1, 0)
    update("afresh")
    assert content(tmp_path / "index") == content(tmp_path / "afresh")


def test_a_moved_folder_keeps_its_index(update, videos, tmp_path):
    update()
    moved = videos.rename(tmp_path / "elsewhere")
    assert VideoIndex(tmp_path / "index", folder=moved).file("a.mp4").is_file()
    assert counts(update(folder=moved)) == (0, 4, 0, 0, 0)
    assert VideoIndex(tmp_path / "index").file("a.mp4").is_file()


def test_broken_videos_are_skipped_named_and_tried_again(update, videos):
    whole = (videos / "a.mp4").read_bytes()
    (videos / "a.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    for kept in (0, 3):
        changes = update()
        assert counts(changes) == (3 - kept, kept, 0, 0, 2)
        assert changes.skipped.keys() == {"a.mp4", "empty.mp4"}
        assert "truncated" in changes.skipped["a.mp4"] and "empty" in changes.skipped["empty.mp4"]
    (videos / "a.mp4").write_bytes(whole)
    assert counts(update()) == (1, 3, 0, 0, 1)


def test_segments_hold_the_frames_of_their_times(tmp_path):
    times = np.cumsum([0, *[1] * 99, *[20] * 5]).tolist()  # ten frames a second, then one in two seconds
    write_numbered(tmp_path / "screen.mp4", 105, times=times)
    sampling = Sampling(max_frames=20, framerate=1, segment=8, overlap=2)
    reader = SegmentReader(tmp_path, ["screen.mp4"], 64, sampling)
    reader.transform = lambda frames: torch.from_numpy(frames)
    *parts, end = reader
    assert isinstance(end, Finished) and end.reason == "" and end.duration == pytest.approx(19.9, abs=2.1)
    spans = [span for part in parts for span in part.spans]
    assert spans[:2] == [(0, 8), (6, 14)]
    frames = torch.cat([part.frames for part in parts])
    shown = [len(some) for part in parts for some in part.times]
    for (first, last), some, said in zip(
        spans, frames.split(shown), (some for part in parts for some in part.times), strict=True
    ):
        moments = range(int(first), int(last) + 1)
        expected = sorted({max(n for n, time in enumerate(times) if time <= 10 * moment) for moment in moments})
        assert numbers_of(some.numpy()) == expected
        assert said == pytest.approx([times[number] / 10 for number in expected], abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "caf\udce9.mp4", "d'oh\udcff.mp4"])
def test_every_name_is_kept(name):
    assert file_name(stored_name(name)) == name
    stored_name(name).encode("utf-8")


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/passwd", "/a.mp4", "a.txt"])
def test_names_outside_of_the_folder_are_refused(name):
    with pytest.raises(ValueError, match="names no video"):
        file_name(name)


@pytest.mark.parametrize(("method", "after"), [("add", 1), ("delete", 0), ("tidy", 0)])
def test_a_kill_leaves_what_the_next_run_completes(update, videos, checkpoint, tmp_path, method, after):
    """`add` is killed while the first index is made, the others during an update."""
    words = ["index", videos, "--checkpoint", checkpoint, "--index", tmp_path / "cut", "--device", "cpu", *SIZES]
    if method != "add":
        update("cut")
        write_video(videos / "b.mp4", hue=6, seconds=2)
        (videos / "a.mp4").unlink()
    log = tmp_path / "log.txt"
    assert finish(start(log, 1, be_killed, method, after, words)) == [-signal.SIGKILL], log.read_text()
    assert VideoIndex(tmp_path / "cut").search("noise")  # can be queried
    update("whole")
    assert sum(counts(update("cut"))[:2]) == 4 - (method != "add")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_two_processes_make_the_same_index(videos, checkpoint, tmp_path):
    (videos / "empty.mp4").touch()
    for name, processes in (("alone", 1), ("shared", 2)):
        words = ["index", videos, "--checkpoint", checkpoint, "--index", tmp_path / name, "--device", "cpu", *SIZES]
        said = run_together(tmp_path / f"{name}.txt", processes, script, search.main, *words)
        assert said.count("4 videos computed, 0 kept, 0 moved, 0 removed, 1 skipped") == 1
    assert content(tmp_path / "shared") == content(tmp_path / "alone")


def test_decoding_processes_make_the_same_index(update, tmp_path):
    update("alone")
    update("fed", workers=2)
    assert content(tmp_path / "fed") == content(tmp_path / "alone")


def test_an_index_made_with_other_options_asks_for_a_rebuild(update, model, tmp_path):
    update()
    for name, value in {"sampling": SAMPLING | {"max_frames": 3}, "max_words": 20, "bits": 8}.items():
        with pytest.raises(InputError, match=f"made with {name} .*--rebuild"):
            update(**{name: value})
    assert counts(update(bits=8, rebuild=True)) == (4, 0, 0, 0, 0)
    assert VideoIndex(tmp_path / "index").manifest.bits == 8
    assert VideoIndex(tmp_path / "index").search("noise")


def test_an_index_of_the_old_layout_is_refused_and_rebuilt(update, tmp_path):
    index = tmp_path / "index"
    (index / "videos").mkdir(parents=True)
    (index / ".hbi_folder").write_text("index\n")
    entry = index / "videos" / f"{'0' * 64}.safetensors"
    for path in (index / "manifest.json", entry):
        path.write_text("{}")
    for call in (update, lambda: VideoIndex(index)):
        with pytest.raises(InputError, match="earlier version; run scripts/search.py index with --rebuild"):
            call()
    update(rebuild=True)
    assert not entry.exists() and not (index / "manifest.json").exists()
    assert len(VideoIndex(index).files) == 4


def test_another_model_is_refused_and_a_moved_one_is_not(update, checkpoint, tmp_path):
    update()
    other = tmp_path / "other.bin"
    save_weights(released_state(HBI(CLIP(SMALL), temporal_layers=1)), other)
    with pytest.raises(InputError, match="is not the model that the index was made with"):
        VideoIndex(tmp_path / "index", checkpoint=str(other))
    moved = shutil.copy(checkpoint, tmp_path / "moved.bin")
    assert VideoIndex(tmp_path / "index", checkpoint=str(moved)).files
    with pytest.raises(InputError, match="no index of videos"):
        VideoIndex(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["data", "_versions"])
def test_a_damaged_index_is_refused_in_one_line_and_rebuilt(update, tmp_path, part):
    update()
    for path in (tmp_path / "index" / "segments.lance" / part).iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="--rebuild") as error:
        VideoIndex(tmp_path / "index").search("noise")
    assert "\n" not in str(error.value)
    assert counts(update(rebuild=True)) == (4, 0, 0, 0, 0)


def test_details_are_kept_until_they_are_said_again(update, tmp_path):
    update(details={"a.mp4": Details("a match", ("sport", "red"), "2024-05-01")})
    index = VideoIndex(tmp_path / "index")
    for condition, expected in {
        "caption = 'a match'": ["a.mp4"],
        "date >= '2024-05-01'": ["a.mp4"],
        "array_has(tags, 'sport') AND NOT array_has(tags, 'blue')": ["a.mp4"],
        "duration > 10": ["long.mp4"],
        "video LIKE 'deeper/%'": ["deeper/c.mp4"],
        "duration > 99": [],
    }.items():
        assert sorted({hit.file for hit in index.search("noise", where=condition)}) == expected
    (hit,) = index.search("noise", where="caption <> ''")
    assert (hit.caption, hit.tags, hit.date) == ("a match", ("sport", "red"), "2024-05-01")
    assert counts(update()) == (0, 4, 0, 0, 0)
    assert index.search("noise", where="array_has(tags, 'red')") == [hit]
    update(details={"a.mp4": Details("a game")})
    assert index.search("noise", where="array_has(tags, 'red')") == []
    assert index.search("noise", where="caption = 'a game'")
    with pytest.raises(InputError, match="--where") as error:
        index.search("noise", where="nonsense = 1")
    assert "\n" not in str(error.value)


def test_a_process_that_reads_sees_what_another_adds(update, videos, checkpoint, tmp_path):
    update()
    index = VideoIndex(tmp_path / "index")
    write_video(videos / "added.mp4", hue=7)
    words = ["index", videos, "--checkpoint", checkpoint, "--index", tmp_path / "index", "--device", "cpu", *SIZES]
    assert "1 videos computed, 4 kept" in run_together(tmp_path / "log.txt", 1, script, search.main, *words)
    assert "added.mp4" in {hit.file for hit in index.search("noise", top=20)}
    assert Store(tmp_path / "index").count() == 8
