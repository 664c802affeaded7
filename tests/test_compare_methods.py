"""The comparison of methods: runs, finished runs, and the figures over seeds."""

import json

import pytest

from scripts import compare_methods
from scripts.experiments import runs
from tests.processes import script_runner
from tests.retrieval_case import build_corpus
from utils.errors import InputError


def test_methods_are_trained_compared_and_not_trained_again(tmp_path, monkeypatch, capsys):
    corpus = build_corpus(tmp_path / "shapes", train=8, test=8)
    common = [
        "--anno_path", corpus.annotations, "--video_path", corpus.videos, "--base_encoder", corpus.clip,
        "--epochs", 1, "--max_words", 16, "--max_frames", 4, "--batch_size", 10, "--workers", 0, "--augment", "none",
    ]  # fmt: skip
    words = ["--methods", "dicosa", "diffusionret", "--seeds", "0", "--output", str(tmp_path / "out"), "--options"]
    words += ["dicosa=--center 4", "diffusionret=--num 3 --diffusion_steps 2", "--", *map(str, common)]
    monkeypatch.setattr(runs.subprocess, "run", script_runner(tmp_path / "log.txt"))
    found = compare_methods.main(words)
    assert list(found) == ["dicosa", "diffusionret discrimination", "diffusionret generation"]
    assert {"scores", "plain"} == found["dicosa"].keys() == found["diffusionret generation"].keys()
    first, plain = found["diffusionret discrimination"]["scores"], found["diffusionret generation"]["plain"]
    assert first == plain  # the second stage leaves the similarity as it is
    printed = capsys.readouterr().out
    assert "dicosa, similarity alone" in printed and (tmp_path / "out" / "comparison.png").stat().st_size > 1000
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found

    monkeypatch.setattr(runs.subprocess, "run", None)
    assert compare_methods.main(words) == found
    with pytest.raises(InputError, match="is of a run with other flags"):
        compare_methods.main([*words, "--lr", "1e-3"])


def test_the_interval_is_students():
    found = runs.mean_and_interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0 and found["interval"] == pytest.approx(4.302653 / 3**0.5)
    assert runs.mean_and_interval([5.0])["interval"] == 0.0


def test_options_of_no_method_are_refused():
    with pytest.raises(InputError, match="write METHOD=FLAGS"):
        compare_methods.split_options("none=--kl 2")
