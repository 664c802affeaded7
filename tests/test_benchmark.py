"""The benchmark script, on small sizes."""

import json
from pathlib import Path

import pytest

from scripts.benchmark import format_table, main
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
