"""The benchmark script, on small sizes."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import CLIP, CLIPConfig
from models.caption_decoder import CaptionDecoder
from models.level import TokenSet
from scripts import benchmark
from scripts.benchmark import format_table, main
from scripts.benchmarks import captions, labels
from scripts.benchmarks import model as benchmark_model
from scripts.benchmarks.measure import measure_call
from utils.errors import InputError

SMALL = ["labels", "--threads", "1", "--pairs", "3", "--words", "5", "--frames", "3", "--num_samples", "64"]


def test_labels_table_file_and_comparison(tmp_path, capsys):
    file = tmp_path / "labels.json"
    main([*SMALL, "--repeats", "1", "--json", str(file)])
    printed = capsys.readouterr()
    assert "x)" not in printed.out
    rows = {row["case"]: row for row in json.loads(file.read_text())["rows"]}
    for game in ("standard", "released"):
        exact, sampled = rows[f"{game}: exact"], rows[f"{game}: sampled, 64"]
        assert exact["error"] < 1e-5 * exact["signal"]
        assert exact["error"] < sampled["error"] < exact["signal"]
        assert 0 < exact["min s"] <= exact["median s"]
    assert printed.err.splitlines() == [f"measured {case}" for case in rows]
    main([*SMALL, "--repeats", "1", "--compare", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["case", "min", "s"]
    assert len(lines) == 5
    assert all("(1.00x)" in line for line in lines[1:])


def test_labels_are_measured_one_after_another():
    rows = labels.measure(pairs=2, words=3, frames=3, num_samples=4, repeats=1)
    assert next(rows)["case"] == "standard: exact"  # and the others are still to be measured


def test_frames_come_faster_from_a_warm_cache(tmp_path, video_file):
    file = tmp_path / "frames.json"
    main(["frames", "--threads", "1", "--video", str(video_file), "--repeats", "2", "--json", str(file)])
    rows = {row["case"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["decoding", "decoded and resized", "decord2", "lossless", "compact"]
    assert rows["lossless"]["faster"] > 2  # of a tiny video; real ones gain far more
    assert rows["compact"]["kept MB"] < rows["lossless"]["kept MB"] / 4


def test_table_divides_earlier_numbers_by_the_new():
    table = format_table([{"case": "a", "s": 2.0}, {"case": "b", "s": None}], [{"case": "a", "s": 5.0}])
    assert table.splitlines() == ["case          s", "a     2 (2.50x)", "b"]


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


def test_on_a_gpu_its_events_and_its_memory_count(monkeypatch):
    calls = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            calls.append("event")

        def synchronize(self):
            calls.append("waited")

        def elapsed_time(self, end):
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 * 2**20)
    with torch.device("cuda", 0):
        _, row = measure_call(lambda: calls.append("call"), 1)
    assert calls == ["reset", "call", "event", "call", "event", "waited"]
    assert row["median s"] == 1.5 and row["peak MB"] == 4


def test_all_gives_the_rows_of_every_subject_in_one_table(tmp_path, tiny_model, monkeypatch, capsys):
    small = {"shortlist": ["--videos", "9"], "similarity": ["--sizes", "3"], "labels": SMALL[3:], "features": []}
    few = {name: ["--repeats", "1", "--device", "cpu"] for name in small}

    def in_this_process(command):
        name = command[2]
        main([*command[2:], *small[name], *few[name]])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(benchmark, "MEASURED", dict.fromkeys(small))
    monkeypatch.setattr(subprocess, "run", in_this_process)
    main(["all", "--threads", "1", "--json", str(tmp_path / "all.json")])
    rows = [row["case"] for row in json.loads((tmp_path / "all.json").read_text())["rows"]]
    assert {row.partition(":")[0] for row in rows} == set(small)
    assert [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()[-len(rows) :]] == rows
    monkeypatch.setattr(subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    with pytest.raises(InputError, match="shortlist: failed"):
        main(["all"])


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
        (
            ["captions", "--videos", "2", "--words", "3"],
            ["with the cache", "without, logits of the last word", "without, logits of all words"],
        ),
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
    assert training["cores a GPU"] == pytest.approx(training["mean s"] * 16 / 0.055)
    assert test["sample MB"] == training["sample MB"] < 2


def test_writers_of_a_frame_cache_are_counted(tmp_path):
    file = tmp_path / "cache.json"
    main(["cache", "--writers", "1", "3", "--videos", "2", "--decode_ms", "1", "--sync_ms", "1", "--json", str(file)])
    one, three = json.loads(file.read_text())["rows"]
    assert one["of the first"] == 1 and three["case"] == "writers: 3" and three["videos/s"] > 0


def test_host_time_of_a_step_is_told_by_its_parts(tmp_path):
    file = tmp_path / "host.json"
    main(["host", "--repeats", "1", "--threads", "1", "--json", str(file)])
    rows = {row["case"]: row["min ms"] for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["forward", "backward", "whole step"] and 0 < rows["forward"] < rows["whole step"]


@pytest.mark.slow
def test_processes_evaluate_and_save_together(tmp_path):
    file = tmp_path / "ranks.json"
    main(["ranks", "--texts", "50", "--videos", "40", "--processes", "2", "--json", str(file)])
    (row,) = json.loads(file.read_text())["rows"]
    assert row["matrix MB"] == pytest.approx((4 * 50 * 40 + 128) / 2**20) and row["MB of all"] > 50


def test_methods_agree_with_the_released_way(tmp_path, tiny_model):
    file = tmp_path / "methods.json"
    main(["methods", "--size", "5", "--pair_size", "3", "--words", "8", "--frames", "4", "--repeats", "1",
          "--device", "cpu", "--json", str(file)])  # fmt: skip
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 18 and all(row["difference"] < 1e-5 for row in rows)


def test_captions_with_and_without_the_cache_are_the_same():
    torch.manual_seed(0)
    clip = CLIP(replace(benchmark_model.SIZES, vision_layers=1, text_layers=1))
    decoder = CaptionDecoder(clip, levels=2, layers=1, dropout=0.0).eval()
    torch.nn.init.normal_(decoder.embedding.weight, std=0.2)
    torch.nn.init.normal_(decoder.positions)
    sets = [TokenSet.original(torch.randn(2, tokens, 512), torch.ones(2, tokens)) for tokens in (4, 2)]
    with torch.inference_mode():
        ways = captions.cached, captions.last_word, captions.all_words
        found = [captions.write(decoder, sets, 2, 6, logits_after) for logits_after in ways]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2]) and len(found[0].unique()) > 2
