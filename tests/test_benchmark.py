"""The benchmark script, on small sizes."""

import json
from pathlib import Path

import pytest

from models import CLIPConfig
from scripts.benchmark import format_table, main
from scripts.benchmarks import model as benchmark_model
from scripts.benchmarks.measure import measure_call
from utils.errors import InputError

SMALL = ["labels", "--threads", "1", "--pairs", "3", "--words", "5", "--frames", "3", "--num_samples", "64"]


def test_labels_table_file_and_comparison(tmp_path, capsys):
    file = tmp_path / "labels.json"
    main([*SMALL, "--repeats", "1", "--json", str(file)])
    rows = {row["case"]: row for row in json.loads(file.read_text())["rows"]}
    for game in ("standard", "released"):
        exact, sampled = rows[f"{game}: exact"], rows[f"{game}: sampled, 64"]
        assert exact["error"] < 1e-5 * exact["signal"]
        assert exact["error"] < sampled["error"] < exact["signal"]
        assert 0 < exact["min s"] <= exact["median s"]
    assert "x)" not in capsys.readouterr().out
    main([*SMALL, "--repeats", "1", "--compare", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["case", "min", "s"]
    assert len(lines) == 5
    assert all("(1.00x)" in line for line in lines[1:])


def test_frames_come_faster_from_a_warm_cache(tmp_path, video_file):
    file = tmp_path / "frames.json"
    main(["frames", "--threads", "1", "--video", str(video_file), "--repeats", "2", "--json", str(file)])
    rows = {row["case"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["decoded", "lossless", "compact"]
    assert rows["lossless"]["faster"] > 2  # of a tiny video; real ones gain far more
    assert rows["compact"]["kept MB"] < rows["lossless"]["kept MB"] / 4


def test_table_divides_earlier_numbers_by_the_new():
    table = format_table([{"case": "a", "s": 2.0}, {"case": "b", "s": None}], [{"case": "a", "s": 5.0}])
    assert table.splitlines() == ["case          s", "a     2 (2.50x)", "b              "]


@pytest.mark.parametrize("text", [None, "not json", "[]", '{"rows": [{}]}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    file = tmp_path / "earlier.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match="earlier.json"):
        main([*SMALL, "--compare", str(file)])


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_numbers_below_one_are_refused(value, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*SMALL, "--pairs", value])
    assert "--pairs" in capsys.readouterr().err


def test_one_word_has_no_interaction():
    with pytest.raises(InputError, match="--words 1"):
        main([*SMALL, "--words", "1"])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak memory")
def test_peak_memory_is_that_of_the_call():
    result, row = measure_call(lambda: len(bytearray(b"x") * 50_000_000), 1)
    assert result == 50_000_000
    assert row["peak MB"] == pytest.approx(48, abs=8)


@pytest.fixture()
def tiny_model(monkeypatch):
    monkeypatch.setattr(benchmark_model, "SIZES", CLIPConfig(16, 8, 64, 1, 64, 1, 64, vocabulary=90))
    monkeypatch.setattr(benchmark_model, "PRODUCT", 64)


def test_arithmetic_is_counted(tmp_path, tiny_model):
    file, picture = tmp_path / "similarity.json", tmp_path / "curve.png"
    sizes = ["--sizes", "3", "5", "--words", "4", "--frames", "3", "--repeats", "1", "--threads", "1"]
    main(["similarity", *sizes, "--plot", str(picture), "--json", str(file)])
    rows = {row["case"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["3 x 3, fp32", "5 x 5, fp32", "3 x 3, bf16", "5 x 5, bf16"]
    assert rows["5 x 5, fp32"]["GFLOP"] > rows["3 x 3, fp32"]["GFLOP"] > 0
    assert rows["5 x 5, fp32"]["same top-1"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "cases"),
    [
        (["features", "--videos", "2", "--frames", "2"], ["fp32", "bf16"]),
        (["train", "--pairs", "2", "--words", "4", "--frames", "3", "--precision", "bf16"], ["bf16"]),
        (["train", "--pairs", "2", "--words", "4", "--frames", "3", "--grad_checkpointing"], ["fp32, checkpointed"]),
        (
            ["shortlist", "--videos", "9", "--shortlist", "4", "--words", "3", "--frames", "2"],
            ["reading the query", "shortlist", "ranking it", "whole query"],
        ),
        (["vqa", "--videos", "2", "--questions", "2", "--words", "4"], ["encoding", "encoding and answering"]),
    ],
)
def test_every_subject_gives_its_rows(arguments, cases, tmp_path, tiny_model):
    file = tmp_path / "rows.json"
    main([*arguments, "--repeats", "1", "--threads", "1", "--json", str(file)])
    rows = json.loads(file.read_text())["rows"]
    assert [row["case"] for row in rows] == cases
    assert all(row["min s"] > 0 for row in rows)


def test_samples_are_compared_with_decoding(tmp_path, video_file):
    file = tmp_path / "loader.json"
    main(["loader", "--video", str(video_file), "--repeats", "1", "--threads", "1", "--json", str(file)])
    decoding, test, training = json.loads(file.read_text())["rows"]
    assert decoding["of decoding"] == 1
    assert test["sample MB"] == training["sample MB"] < 2
