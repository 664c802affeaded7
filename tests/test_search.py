"""Indexing a folder of videos and searching it: what is computed, what survives a kill, and what is refused."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered import numbers_of, write_numbered

from models import CLIP, HBI, HBIVQA
from scripts.search import main as search
from scripts.searching import build, storage
from scripts.searching.query import Hit, VideoIndex, clock
from scripts.searching.segments import SegmentReader, windows
from scripts.searching.storage import ENTRIES, Manifest, read_manifest
from tests.conftest import SMALL, write_video
from utils import distributed, files
from utils.checkpoint import released_state, save_weights, sha256
from utils.errors import InputError

SAMPLING = {"max_frames": 4, "framerate": 1, "segment": 8, "overlap": 3}
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def one_thread():
    """A forked process would wait for OpenMP's other threads, which the fork leaves behind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Three short videos, one of them in a subfolder, and one of 19 s, which makes four segments."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a.mp4", "b.mp4", "deeper/c.mp4")):
        write_video(folder / name, hue=number)
    write_video(folder / "long.mp4", hue=4, seconds=19, fps=2)
    return folder


@pytest.fixture
def videos(originals, tmp_path):
    return Path(shutil.copytree(originals, tmp_path / "videos"))  # with the times of change


@pytest.fixture
def update(model, checkpoint, videos, tmp_path):
    """Brings an index of `videos` up to date in this process."""

    def call(name="index", **changed):
        options = {"checkpoint": str(checkpoint), "base_encoder": None, "rates": (0.5, 0.3, 0.2)}
        made_of = {"folder": str(videos), "model": options, "digest": sha256(checkpoint), "sampling": SAMPLING}
        return build.build_index(model, tmp_path / name, Manifest(**made_of | {"max_words": 16} | changed))

    return call


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def counts(changes):
    return changes.computed, changes.kept, changes.removed, len(changes.skipped)


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


@pytest.mark.parametrize(("seconds", "says"), [(5.9, "0:05"), (65, "1:05"), (3723.4, "1:02:03")])
def test_times_are_written_as_on_a_clock(seconds, says):
    assert clock(seconds) == says


def test_only_what_changed_is_computed(update, videos, tmp_path):
    assert counts(update()) == (4, 0, 0, 0)
    before = tree(tmp_path / "index")
    assert counts(update()) == (0, 4, 0, 0)
    assert tree(tmp_path / "index") == before

    write_video(videos / "added.mp4", hue=7)
    assert counts(update()) == (1, 4, 0, 0)
    assert before.items() - tree(tmp_path / "index").items() == {(Path("manifest.json"), before[Path("manifest.json")])}

    write_video(videos / "b.mp4", hue=6, seconds=2)
    assert counts(update()) == (1, 4, 0, 0)
    (videos / "a.mp4").unlink()
    assert counts(update()) == (0, 4, 1, 0)
    update("afresh")
    assert tree(tmp_path / "index") == tree(tmp_path / "afresh")
    assert len(list((tmp_path / "index" / ENTRIES).iterdir())) == 4


def test_broken_videos_are_skipped_named_and_tried_again(update, videos):
    whole = (videos / "a.mp4").read_bytes()
    (videos / "a.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    for kept in (0, 3):
        changes = update()
        assert counts(changes) == (5 - kept, kept, 0, 2)
        assert changes.skipped.keys() == {"a.mp4", "empty.mp4"}
        assert "truncated" in changes.skipped["a.mp4"] and "empty" in changes.skipped["empty.mp4"]
    (videos / "a.mp4").write_bytes(whole)
    assert counts(update()) == (2, 3, 0, 1)


def test_entries_of_another_decoder_are_not_served(update, tmp_path, monkeypatch):
    update()
    monkeypatch.setattr(storage, "DECODER", "another")
    with pytest.raises(InputError, match="is missing or damaged; run scripts/search.py index again"):
        VideoIndex(tmp_path / "index")
    assert counts(update()) == (4, 0, 0, 0)


def test_segments_hold_the_frames_of_their_times(tmp_path):
    times = np.cumsum([0, *[1] * 99, *[20] * 5]).tolist()  # ten frames a second, then one in two seconds
    write_numbered(tmp_path / "screen.mp4", 105, times=times)
    reader = SegmentReader(tmp_path, ["screen.mp4"], 64, max_frames=20, framerate=1, segment=8, overlap=2)
    reader.transform = lambda frames: frames
    *segments, (_, end, reason) = reader
    assert (end, reason) == (None, "")
    for _, (start, stop), frames in segments:
        moments = range(int(start), int(stop) + 1)
        shown = [max(n for n, time in enumerate(times) if time <= 10 * moment) for moment in moments]
        assert numbers_of(frames) == sorted(set(shown))
    assert [window for _, window, _ in segments[:2]] == [(0, 8), (6, 14)]


def test_names_that_are_not_utf8_are_read_and_named(checkpoint, videos, tmp_path, capsys):
    for name, content in ((b"caf\xe9.mp4", (videos / "a.mp4").read_bytes()), (b"\xff.mp4", b"")):
        Path(os.fsdecode(os.fsencode(videos) + b"/" + name)).write_bytes(content)
    where = ["--index", str(tmp_path / "index"), "--device", "cpu"]
    sizes = ["--max_words", "16", "--max_frames", "4", "--segment", "30", "--workers", "0"]
    search(["index", str(videos), "--checkpoint", str(checkpoint), *sizes, *where])
    output = capsys.readouterr().out
    assert "6 videos computed" in output and "1 skipped" in output and r"skipped \udcff.mp4" in output
    search(["query", "noise", "--top", "9", "--json", str(tmp_path / "results.json"), *where])
    assert r"caf\udce9.mp4" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert "caf\udce9.mp4" in [result["file"] for result in results]


def in_processes(call, count):
    """Run `call(number)` in so many forked processes and return their exit codes."""
    processes = [FORK.Process(target=call, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_a_kill_leaves_what_the_next_run_completes(update, tmp_path, monkeypatch):
    update("whole")
    replace, done = os.replace, []

    def kill_at_fourth(source, target):
        """Marker, manifest and one video are written, the second one is there under its temporary name."""
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", kill_at_fourth)
    assert in_processes(lambda _: update("cut"), 1) == [-signal.SIGKILL]
    monkeypatch.undo()
    assert len(list((tmp_path / "cut" / ENTRIES).glob("[!.]*"))) == 1
    with pytest.raises(InputError, match="holds no video yet"):
        VideoIndex(tmp_path / "cut")
    assert counts(update("cut")) == (3, 1, 0, 0)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_two_processes_make_the_same_index(update, tmp_path, monkeypatch):
    update("alone")

    def share(number):
        os.environ |= {"RANK": str(number), "WORLD_SIZE": "2"}
        distributed.dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", world_size=2, rank=number)
        assert update("shared").computed == 4
        distributed.stop()

    assert in_processes(share, 2) == [0, 0]
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


def test_a_search_ranks_as_the_model_does(update, model, videos, tmp_path):
    update()
    index = VideoIndex(tmp_path / "index")
    assert [(s.start, s.end) for s in index.segments if s.file == "long.mp4"] == [(0, 8), (5, 13), (10, 18), (15, 19)]
    short = ["a.mp4", "b.mp4", "deeper/c.mp4"]
    text = model.encode_text(["a bright noise"], 16)
    model.rates = (0.5, 0.3, 0.2)
    whole = model.similarity(text, model.encode_video([videos / name for name in short], 4))[0].tolist()
    window = model.encode_video([videos / "long.mp4"], 4, start=5, end=13)
    parts = {("long.mp4", 5.0): model.similarity(text, window).item()}
    parts |= {(name, 0.0): value for name, value in zip(short, whole, strict=True)}
    hits = index.search("a bright noise", top=7)
    found = {(hit.file, hit.start): hit.similarity for hit in hits}
    assert {key: found.get(key, parts[key]) for key in parts} == pytest.approx(parts, abs=1e-5)
    assert [hit.similarity for hit in hits] == sorted(found.values(), reverse=True)
    assert not any(one.overlaps(other) for place, one in enumerate(hits) for other in hits[:place])
    assert set(short) <= {hit.file for hit in hits} <= {*short, "long.mp4"}
    assert hits[0] == index.search("a bright noise", top=1)[0]


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("where", "change", "says"),
    [
        ("manifest.json", lambda content: content[:-20], "is no JSON"),
        ("manifest.json", lambda content: content.replace(b'"a.mp4"', b'"../a.mp4"'), "names no video"),
        ("manifest.json", lambda content: content.replace(b'"a.mp4"', b'"/etc/passwd"'), "names no video"),
        ("manifest.json", lambda content: content.replace(b'"format": 2', b'"format": 1'), "not of version 2"),
        (f"{ENTRIES}/*", lambda content: content[:-20], "missing or damaged"),
        (f"{ENTRIES}/*", lambda content: content[:-1] + bytes([content[-1] ^ 1]), "missing or damaged"),
        (f"{ENTRIES}/*", lambda content: b"", "missing or damaged"),
    ],
)
def test_a_damaged_index_is_refused_and_mended(update, tmp_path, where, change, says):
    update()
    path = next((tmp_path / "index").glob(where))
    before = tree(tmp_path / "index")
    damage(path, change)
    with pytest.raises(InputError, match=says) as error:
        VideoIndex(tmp_path / "index")
    assert "\n" not in str(error.value)
    if path.name == "manifest.json":
        path.unlink()  # as the message says
    update()
    assert tree(tmp_path / "index") == before


def test_a_video_is_most_like_itself(update, model, videos, tmp_path):
    update()
    index = VideoIndex(tmp_path / "index")
    segment = index.segments[-1]
    hits = index.like(model.encode_video(videos / segment.file, **index.sampling(segment)), top=3)
    assert (hits[0].file, hits[0].start) == (segment.file, segment.start)
    assert hits[0].similarity == pytest.approx(1, abs=1e-5)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)


def test_an_index_of_something_else_is_refused(update, checkpoint, videos, tmp_path):
    update()
    others = {"sampling": SAMPLING | {"max_frames": 3}, "digest": "0" * 64, "folder": str(videos / "deeper")}
    for key, value in others.items():
        with pytest.raises(InputError, match=f"made with {key}"):
            update(**{key: value})
    other = tmp_path / "other.bin"
    save_weights(released_state(HBI(CLIP(SMALL), temporal_layers=1)), other)
    with pytest.raises(InputError, match="is not the model that the index was made with"):
        VideoIndex(tmp_path / "index", checkpoint=str(other))
    moved = shutil.copy(checkpoint, tmp_path / "moved.bin")
    assert VideoIndex(tmp_path / "index", checkpoint=str(moved)).segments
    with pytest.raises(InputError, match="no index of videos"):
        VideoIndex(tmp_path / "nowhere")


def test_the_command_line(checkpoint, videos, tmp_path, capsys):
    where = ["--index", str(tmp_path / "index")]
    sizes = ["--max_words", "16", "--max_frames", "4", "--segment", "8", "--overlap", "3", "--workers", "1"]
    (videos / "empty.mp4").touch()
    search(["index", str(videos), "--checkpoint", str(checkpoint), "--device", "cpu", *sizes, *where])
    output = capsys.readouterr().out
    assert "skipped empty.mp4: " in output and "5 videos computed, 0 kept, 0 removed, 1 skipped" in output
    assert read_manifest(tmp_path / "index").sampling.model_dump() == SAMPLING

    results = tmp_path / "results.json"
    search(["query", "a bright noise", "--top", "3", "--device", "cpu", "--json", str(results), *where])
    header, _, *rows = capsys.readouterr().out.splitlines()
    written = json.loads(results.read_text())
    assert header.split() == ["video", "from", "to", "similarity"]
    assert (written["query"], written["folder"], len(written["results"])) == ("a bright noise", str(videos), 3)
    for row, result in zip(rows, written["results"], strict=True):
        hit = Hit(**result)
        assert row.split() == [hit.file, clock(hit.start), clock(hit.end), f"{hit.similarity:.3f}"]


def test_an_exported_model_makes_the_same_entries(model, checkpoint, videos, tmp_path, capsys):
    model.save_pretrained(tmp_path / "exported")
    found = []
    for name in (checkpoint, tmp_path / "exported"):
        index = tmp_path / f"index of {name.name}"
        search(["index", str(videos / "deeper"), "--checkpoint", str(name), "--index", str(index), "--workers", "0"])
        found.append(VideoIndex(index).gallery.shortlist.vectors)
    assert torch.equal(*found)


def test_questions_on_the_command_line(videos, tmp_path, capsys):
    torch.manual_seed(0)
    model = HBIVQA(CLIP(SMALL), ["red", "blue"], temporal_layers=1).eval()
    save_weights(released_state(model), tmp_path / "pytorch_model.bin.0")
    (tmp_path / "train_ans2label.json").write_text('{"blue": 1, "red": 0}', encoding="utf-8-sig")
    asked = ["what colour?", str(videos / "long.mp4"), "--checkpoint", str(tmp_path / "pytorch_model.bin.0")]
    search(["ask", *asked, "--device", "cpu", "--start", "3", "--end", "9", "--json", str(tmp_path / "answers.json")])
    expected = model.answer("what colour?", videos / "long.mp4", start=3, end=9)
    results = json.loads((tmp_path / "answers.json").read_text())["results"]
    assert [(result["answer"], result["probability"]) for result in results] == expected
    assert capsys.readouterr().out.splitlines()[2].split()[0] == expected[0][0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["index", "VIDEOS", "--overlap", "30"], "overlap by 0 to 29 s"),
        (["index", "VIDEOS", "--max_frames", "78"], "77 positions"),
        (["index", "VIDEOS", "--max_words", "78"], "77 positions"),
        (["index", "VIDEOS/nothing"], "no video in it"),
        (["ask", "what?", "VIDEOS/a.mp4"], "answers no questions"),
    ],
)
def test_wrong_input_is_refused_in_one_line(words, says, checkpoint, videos, tmp_path):
    words = [word.replace("VIDEOS", str(videos)) for word in words]
    with pytest.raises(InputError, match=says) as error:
        search([*words, "--checkpoint", str(checkpoint), "--device", "cpu"])
    assert "\n" not in str(error.value)


def test_impossible_numbers_of_workers_are_refused_in_one_line(checkpoint, videos, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        search(["index", str(videos), "--checkpoint", str(checkpoint), "--workers", "-1"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "--workers: a whole number is needed, 0 or more, not '-1'" in line
