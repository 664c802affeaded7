"""The table over several runs."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from scripts import worst_queries
from scripts.compare_runs import main
from scripts.experiments.queries import difference
from tests.conftest import write_video
from utils.errors import InputError


def write_run(folder, r1, subsets, **more):
    figures = {"R1": r1, "R5": 50.0, "R10": 60.0, "R50": 90.0, "MedianR": 3.0, "MeanR": 7.0}
    metrics = {"t2v": figures, "v2t": figures | {"R1": r1 + 1}, "subsets": {name: figures for name in subsets}, **more}
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_one_row_a_run(tmp_path, capsys):
    write_run(tmp_path / "a", 10.0, ["action"])
    write_run(tmp_path / "b", 20.0, [], run={"captions": 4, "captions_left_out": 996, "checkpoint": None})
    main([f"first={tmp_path / 'a'}", f"second run={tmp_path / 'b'}", "--output", str(tmp_path / "table.json")])
    header, _, first, second = capsys.readouterr().out.splitlines()
    assert "R1 action negatives" in header
    assert first.split() == ["first", "-", "10.0", "50.0", "60.0", "3.0", "10.0", "11.0"]
    assert second.split()[2:] == ["4", "of", "1000", "captions", "20.0", "50.0", "60.0", "3.0", "-", "21.0"]
    assert json.loads((tmp_path / "table.json").read_text())["first"]["t2v"]["R1"] == 10.0


def test_metrics_with_a_byte_order_mark(tmp_path, capsys):
    write_run(tmp_path / "run", 10.0, [])
    metrics = tmp_path / "run" / "metrics.json"
    metrics.write_text(metrics.read_text(), encoding="utf-8-sig")
    main([f"name={tmp_path}/run"])
    assert "name" in capsys.readouterr().out


@pytest.mark.parametrize("run", ["no_name", "name=absent"])
def test_a_run_that_is_not_there(run):
    with pytest.raises(InputError):
        main([run])


def test_runs_of_question_answering_have_a_table_of_their_own(tmp_path, capsys):
    write_run(tmp_path / "retrieval", 10.0, [])
    figures = {"questions": 9, "top1": 70.0, "top5": 90.0, "majority": 30.0}
    for name, kinds in (("both", ("total", "what", "who")), ("one", ("total", "what"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({kind: {"all": figures} for kind in kinds}))
    main([f"{name}={tmp_path / name}" for name in ("retrieval", "both", "one")])
    retrieval, answers = capsys.readouterr().out.split("\n\n")
    assert retrieval.startswith("text to video") and "both" not in retrieval
    assert answers.splitlines()[-1].split() == ["one", "-", "70.0", "90.0", "70.0", "-", "30.0"]


def test_captioning_runs_have_a_table_with_what_the_captions_tell(tmp_path, capsys):
    for name in ("plain", "scored"):
        (tmp_path / name).mkdir()
        metrics = {"captions": {"BLEU4": 30.0, "CIDEr": 90.0}, "videos": 8, "run": {"videos": 8, "videos_left_out": 0}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "scored" / "stories.json").write_text(json.dumps({"things": 87.5}))
    main([f"{name}={tmp_path / name}" for name in ("plain", "scored")])
    header, _, plain, scored = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["captions", "used", "BLEU4", "CIDEr"] and "right things" in header
    assert plain.split() == ["plain", "8", "videos", "30.0", "90.0", "-"]
    assert scored.split() == ["scored", "8", "videos", "30.0", "90.0", "87.5"]


def write_predictions(folder, ranks, names=None):
    found = [{"video": "other", "score": 0.5, "levels": {"entity": 0.4}}]
    lines = [
        {"query": f"<b>query {number}", "rank": rank, "video_rank": 1, "found": found,
         "true": {"video": f"video{number}", "score": 0.1}}
        for number, rank in enumerate(ranks)
    ]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def two_runs(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, 10.0, [])
    draw = np.random.default_rng(0)
    ranks = draw.integers(1, 30, 200)
    write_predictions(tmp_path / "a", ranks.tolist())
    better = ranks.copy()
    better[:40] = 1
    better[40] += 100
    write_predictions(tmp_path / "b", better.tolist())
    return tmp_path, ranks, better


def test_queries_of_two_runs(two_runs, capsys):
    folder, ranks, better = two_runs
    main([f"a={folder / 'a'}", f"b={folder / 'b'}", "--queries", "3"])
    _, means, changed = capsys.readouterr().out.split("\n\n")
    row = next(line for line in means.splitlines() if line.startswith("R@1 ")).split()
    expected = [100 * (run == 1).mean() for run in (ranks, better)]
    assert row[1:4] == [f"{expected[0]:.1f}", f"{expected[1]:.1f}", f"{expected[1] - expected[0]:+.1f}"]
    title, _, _, *rows = changed.strip().splitlines()
    assert title == f"{(better < ranks).sum()} of 200 ranks improve, 1 worsen"
    assert len(rows) == 3 and rows[0].split()[-3:] == ["video40", str(ranks[40]), str(better[40])]


def test_intervals_and_tests_are_those_of_paired_queries():
    draw = np.random.default_rng(1)
    same = draw.integers(0, 2, 400) * 100.0
    assert difference(same, same)["p"] == 1 and difference(same, same)["low"] == 0
    noise = difference(same, draw.permutation(same))
    assert noise["low"] < 0 < noise["high"] and noise["p"] > 0.05
    flipped = same.copy()
    flipped[np.flatnonzero(same == 0)[:20]] = 100.0
    found = difference(same, flipped)
    assert found["difference"] == 5 and found["p"] == pytest.approx(2 / 2**20, abs=3e-4)
    error = 100 * np.sqrt(0.05 * 0.95 / 400)  # of a mean of 400 zeros and hundreds
    assert found["low"] == pytest.approx(5 - 1.96 * error, abs=0.4)
    assert found["high"] == pytest.approx(5 + 1.96 * error, abs=0.4)


@pytest.mark.parametrize("case", ["other queries", "three runs", "malformed"])
def test_runs_that_cannot_be_compared_by_query(case, two_runs):
    folder, ranks, _ = two_runs
    runs = [f"a={folder / 'a'}", f"b={folder / 'b'}"]
    if case == "other queries":
        write_predictions(folder / "b", ranks[1:].tolist())
        reason = "evaluate both on the same test split"
    elif case == "three runs":
        runs, reason = [*runs, runs[0]], "compares two runs, not 3"
    else:
        (folder / "b" / "predictions.jsonl").write_text('{"question": "what?"}\n')
        reason = r"predictions\.jsonl, line 1: query: Field required; give the output folder"
    with pytest.raises(InputError, match=reason):
        main([*runs, "--queries"])


def test_a_page_of_the_worst_queries(two_runs, capsys):
    folder, ranks, _ = two_runs
    write_video(folder / "videos" / "other.mp4", seconds=1)
    worst_queries.main([str(folder / "a"), "--video_path", str(folder / "videos"), "--count", "2"])
    page = (folder / "a" / "worst_queries.html").read_text()
    worst = ranks.argsort(kind="stable")[::-1]
    assert page.count("<h2>") == 2 and f"rank {ranks[worst[0]]}" in page
    assert "<b>query" not in page and "&lt;b&gt;query" in page
    picture = base64.b64decode(page.partition("base64,")[2].partition('"')[0])
    assert Image.open(io.BytesIO(picture)).size == (64, 48) and "entity 0.400" in page
    assert "1 of 3 videos" in capsys.readouterr().out
    with pytest.raises(InputError, match="none of the 3 videos is there"):
        worst_queries.main([str(folder / "a"), "--video_path", str(folder / "a"), "--count", "2"])


def test_names_of_clips_with_their_windows():
    assert worst_queries._place("v, 3-8 s") == ("v", {"start": 3.0, "end": 8.0})
    assert worst_queries._place("v, -8 s") == ("v", {"end": 8.0})
    assert worst_queries._place("a, b") == ("a, b", {})
