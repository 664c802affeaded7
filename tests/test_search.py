"""Searching an index: results, pages, moments, and the command line."""

import io
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

from models import CLIP, HBI, HBIVQA, METHODS, load_model
from scripts.search import main as search
from scripts.searching import watch
from scripts.searching.moments import Candidate, Hit, Segment, moments
from scripts.searching.query import VideoIndex, clock
from scripts.searching.store import Store
from tests.conftest import SMALL, write_video
from tests.search_case import SAMPLING, SIZES, make_index, write_videos
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def opened(model, checkpoint, videos, tmp_path_factory):
    """An index of the videos whose query mixes three levels."""
    model.rates = (0.5, 0.3, 0.2)
    address = tmp_path_factory.mktemp("made") / "index"
    make_index(model, checkpoint, videos, address)
    index = VideoIndex(address)
    index.model.rates = model.rates
    return index


@pytest.mark.parametrize(("seconds", "says"), [(5.9, "0:05"), (65, "1:05"), (3723.4, "1:02:03")])
def test_times_are_written_as_on_a_clock(seconds, says):
    assert clock(seconds) == says


def test_a_search_ranks_as_the_model_does(opened, model, videos):
    short = ["a.mp4", "b.mp4", "deeper/c.mp4"]
    text = model.encode_text(["a bright noise"], 16)
    whole = model.similarity(text, model.encode_video([videos / name for name in short], 4))[0].tolist()
    window = model.encode_video([videos / "long.mp4"], 4, start=5, end=13)
    parts = {("long.mp4", 5.0): model.similarity(text, window).item()}
    parts |= {(name, 0.0): value for name, value in zip(short, whole, strict=True)}
    hits = opened.search("a bright noise", top=7)
    found = {(hit.file, hit.start): hit.similarity for hit in hits}
    assert {key: found.get(key, parts[key]) for key in parts} == pytest.approx(parts, abs=1e-3)  # tokens are float16
    assert [hit.similarity for hit in hits] == sorted(found.values(), reverse=True)
    assert not any(one.overlaps(other) for place, one in enumerate(hits) for other in hits[:place])
    assert set(short) <= {hit.file for hit in hits} <= {*short, "long.mp4"}
    assert all(hit.start <= hit.begin < hit.finish <= hit.duration for hit in hits if hit.file in short)


def test_pages_are_parts_of_the_whole(opened):
    whole = opened.search("a bright noise", top=10)
    pages = [opened.search("a bright noise", top=2, skip=skip) for skip in range(0, len(whole) + 2, 2)]
    assert [hit for page in pages for hit in page] == whole and len(whole) >= 4
    (nearest,) = opened.search("a bright noise", top=1, shortlist=1)
    assert (nearest.file, nearest.start) in {(hit.file, hit.start) for hit in whole}


def test_a_video_is_most_like_itself(opened, model, videos):
    hits = opened.like(model.encode_video(videos / "long.mp4", 4, start=5, end=13), top=3)
    assert (hits[0].file, hits[0].start) == ("long.mp4", 5)
    assert hits[0].similarity == pytest.approx(1, abs=1e-3)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
    assert opened.like(model.encode_video(videos / "long.mp4", 4), where="duration < 5")[0].file != "long.mp4"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_searches_as_it_compares_or_says_why_not(method, videos, tmp_path):
    torch.manual_seed(0)
    kind = METHODS[method]
    options = {"clip4clip": {"sim_header": "seqTransf"}, "diffusionret": {"stage": "discrimination"}}
    model = kind(CLIP(SMALL), **options.get(method, {})).eval()
    save_weights(released_state(model), tmp_path / "model.bin")
    arguments = ["index", str(videos), "--method", method, "--checkpoint", str(tmp_path / "model.bin")]
    arguments += ["--index", str(tmp_path / "index"), "--device", "cpu", *SIZES]
    if model.block:
        with pytest.raises(InputError, match="no shortlist and no search; give a model of --recipe corrected"):
            search(arguments)
        arguments += ["--recipe", "corrected"]
        model = load_model(tmp_path / "model.bin", method=method, recipe="corrected")
    search(arguments)
    index = VideoIndex(tmp_path / "index")
    assert type(index.model) is kind
    text = model.encode_text(["a bright noise"], 16)
    names = ["a.mp4", "b.mp4", "deeper/c.mp4"]
    expected = model.similarity(text, model.encode_video([videos / name for name in names], 4))[0].tolist()
    hits = {hit.file: hit.similarity for hit in index.search("a bright noise", top=20)}
    assert [hits[name] for name in names] == pytest.approx(expected, abs=2e-3)


def candidate(file, start, scores, similarity=0.5, duration=100.0):
    """Frames a second apart."""
    times = [start + number for number in range(len(scores))]
    return Candidate(Segment(file, start, start + len(scores), duration), similarity, times, scores)


def test_a_moment_reaches_over_the_frames_that_carry_the_match():
    found = moments([candidate("a", 10.0, [0, 0, 0.9, 1, 0.8, 0, 0, 0])], 5)
    assert found == [(0, 12, 15)]


def test_a_moment_reaches_into_neighbouring_segments_which_are_one_result():
    parts = [candidate("a", 8.0, [0.9, 1, 0.9, 0, 0, 0]), candidate("a", 2.0, [0, 0, 0, 0, 0.8, 0.9]),
             candidate("a", 40.0, [0, 0.7, 0, 0]), candidate("b", 8.0, [0, 0, 0.6, 0, 0, 0])]  # fmt: skip
    assert moments(parts, 5) == [(0, 6, 11), (2, 41, 42), (3, 10, 11)]
    assert moments(parts, 2) == [(0, 6, 11), (2, 41, 42)]
    assert moments([], 2) == []


def test_a_moment_of_shots_is_the_most_similar_in_a_long_segment():
    parts = [candidate("a", 4.0, [0, 0.9, 1, 0.9, 0, 0]), candidate("b", 5.0, [1]), candidate("a", 7.0, [0, 0.9, 0]),
             candidate("a", 4.0, [0.9, 1, 0.9]), candidate("a", 8.0, [0, 0, 0, 0])]  # fmt: skip
    assert moments(parts, 5, shots=True) == [(0, 7, 10), (1, 5, 6)]


def test_a_moment_ends_at_a_gap():
    parts = [candidate("a", 0.0, [1, 0.9]), candidate("a", 10.0, [0.95, 0]), candidate("b", 0.0, [0, 0, 0, 0, 0])]
    assert moments(parts, 1) == [(0, 0, 2)]


def test_names_that_are_not_utf8_are_read_and_named(checkpoint, videos, tmp_path, capsys):
    copy = shutil.copytree(videos, tmp_path / "videos")
    for name, content in ((b"caf\xe9.mp4", (copy / "a.mp4").read_bytes()), (b"\xff.mp4", b"")):
        Path(os.fsdecode(os.fsencode(copy) + b"/" + name)).write_bytes(content)
    where = ["--index", str(tmp_path / "index"), "--device", "cpu"]
    search(["index", str(copy), "--checkpoint", str(checkpoint), *SIZES, *where])
    output = capsys.readouterr().out
    assert "5 videos computed" in output and "1 skipped" in output and r"skipped \udcff.mp4" in output
    search(["query", "noise", "--top", "9", "--json", str(tmp_path / "results.json"), *where])
    assert r"caf\udce9.mp4" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert "caf\udce9.mp4" in [result["file"] for result in results]
    Path(os.fsdecode(os.fsencode(copy) + b"/caf\xe9.mp4")).unlink()
    search(["index", str(copy), "--checkpoint", str(checkpoint), *SIZES, *where])
    assert "1 removed" in capsys.readouterr().out


def test_the_command_line(checkpoint, videos, tmp_path, capsys, monkeypatch):
    where = ["--index", str(tmp_path / "index"), "--device", "cpu"]
    (tmp_path / "details.csv").write_text("video,caption,tags\nlong.mp4,a long one,one; two\n")
    details = ["--details", str(tmp_path / "details.csv")]
    search(["index", str(videos), "--checkpoint", str(checkpoint), *SIZES, *where, *details])
    assert "4 videos computed, 0 kept, 0 moved, 0 removed, 0 skipped" in capsys.readouterr().out
    sampling = Store(tmp_path / "index").manifest().sampling.model_dump()
    assert sampling == {**SAMPLING, "cut": "windows", "group": 0}

    results = tmp_path / "results.json"
    search(["query", "a bright noise", "--top", "3", "--json", str(results), *where])
    header, _, *rows = capsys.readouterr().out.splitlines()
    written = json.loads(results.read_text())
    assert header.split() == ["video", "from", "to", "match", "at", "similarity"]
    assert (written["query"], written["folder"], len(written["results"])) == ("a bright noise", str(videos), 3)
    for row, result in zip(rows, written["results"], strict=True):
        hit = Hit(**result)
        times = map(clock, (hit.start, hit.end, hit.begin))
        assert row.split() == [hit.file, *times, f"{hit.similarity:.3f}"]
    search(["query", "a bright noise", "--where", "caption = 'a long one'", "--json", str(results), *where])
    assert {tuple(hit["tags"]) for hit in json.loads(results.read_text())["results"]} == {("one", "two")}

    (tmp_path / "queries.txt").write_text("a bright noise\n\na dark noise\n")
    capsys.readouterr()
    search(["query", "--queries", str(tmp_path / "queries.txt"), "--json", str(results), *where])
    from_file = capsys.readouterr().out
    assert [found["query"] for found in json.loads(results.read_text())] == ["a bright noise", "a dark noise"]
    monkeypatch.setattr("sys.stdin", io.StringIO("a bright noise\na dark noise\n\nnever read\n"))
    search(["query", *where])
    assert capsys.readouterr().out.replace("search for: ", "") == from_file


def test_a_watched_folder_is_indexed_when_it_has_settled(videos, tmp_path):
    folder = Path(shutil.copytree(videos, tmp_path / "videos"))
    found = watch.changes(folder, 0.05)
    waiting = threading.Thread(target=lambda: next(found), daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    write_video(folder / "added.mp4")
    waiting.join(60)
    assert not waiting.is_alive()


def test_an_exported_model_and_the_options_of_the_command_line_are_used(videos, tmp_path):
    model = HBI(CLIP(SMALL), temporal_layers=1, rates=(0.5, 0.3, 0.2)).eval()
    model.save_pretrained(tmp_path / "exported")
    checkpoint = tmp_path / "pytorch_model.bin.0"
    save_weights(released_state(model), checkpoint)
    found = []
    for name in (checkpoint, tmp_path / "exported"):
        index = tmp_path / f"index of {name.name}"
        rate = ["--rate", "0.5", "0.3", "0.2"] if name == checkpoint else []
        words = ["index", str(videos / "deeper"), "--checkpoint", str(name), "--index", str(index), "--workers", "0"]
        search([*words, *rate, "--device", "cpu"])
        found.append(VideoIndex(index))
    assert [tuple(index.model.rates) for index in found] == [tuple(model.rates)] * 2
    assert found[0].search("noise") == found[1].search("noise")


def test_questions_on_the_command_line(videos, tmp_path, capsys):
    torch.manual_seed(0)
    model = HBIVQA(CLIP(SMALL), ["red", "blue"], temporal_layers=1).eval()
    save_weights(released_state(model), tmp_path / "pytorch_model.bin.0")
    (tmp_path / "train_ans2label.json").write_text('{"blue": 1, "red": 0}', encoding="utf-8-sig")
    question = ["what colour?", str(videos / "long.mp4"), "--checkpoint", str(tmp_path / "pytorch_model.bin.0")]
    window = ["--device", "cpu", "--start", "3", "--end", "9"]
    search(["ask", *question, *window, "--json", str(tmp_path / "answers.json")])
    expected = model.answer("what colour?", videos / "long.mp4", start=3, end=9)
    results = json.loads((tmp_path / "answers.json").read_text())["results"]
    assert [(result["answer"], result["probability"]) for result in results] == expected
    assert capsys.readouterr().out.splitlines()[2].split()[0] == expected[0][0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["index", "VIDEOS", "--overlap", "30"], "overlap by 0 to 11 s"),
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
