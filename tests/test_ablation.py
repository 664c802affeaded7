"""Grids of variants and seeds: runs, finished runs, and effects against their definitions."""

import itertools
import json

import numpy as np
import pytest

from scripts import ablation
from scripts.experiments import runs
from scripts.experiments.effects import paired_effect
from scripts.experiments.grid import read_grid
from scripts.score_stories import score_run
from tests.processes import script_runner
from tests.retrieval_case import build_corpus
from utils.errors import InputError

FLAGS = (
    "--do_train 1 --epochs 1 --max_words 16 --max_frames 4 --batch_size 10 --augment none --workers 0 "
    "--num_hidden_layers 1"
)
MIXED = "--do_train 0 --do_eval 1 --rate 0.4 0.3 0.3"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=8, test=8)


def write_grid(path, variants, comparisons=(), flags=FLAGS, script="main_retrieval.py"):
    grid = {"script": script, "flags": flags, "variants": variants, "comparisons": list(comparisons)}
    path.write_text(json.dumps(grid))
    return path


def command_line(corpus, folder, grid, *flags):
    data = ["--anno_path", corpus.annotations, "--video_path", corpus.videos, "--base_encoder", corpus.clip]
    return [str(word) for word in (grid, "--output", folder / "out", *flags, "--", *data)]


def test_a_grid_runs_goes_on_and_is_summarised(corpus, tmp_path, monkeypatch, capsys):
    variants = {
        "entity": {"flags": "--num_levels 1 --skl 0 --kl 0"},
        "network": {"script": "banzhaf_estimator.py"},
        "levels": {"flags": "--kl 2", "needs": {"--estimator": "network"}},
        "levels, mixed": {"flags": MIXED, "needs": {"--init_model": "levels"}},
    }
    grid = write_grid(tmp_path / "grid.json", variants, [("levels", "entity"), ("levels, mixed", "levels")])
    words = command_line(corpus, tmp_path, grid, "--seeds", "0", "1", "--jobs", "2")
    monkeypatch.setattr(runs.subprocess, "run", script_runner(tmp_path / "log.txt"))
    found = ablation.main(words)
    assert list(found["variants"]) == ["entity", "levels", "levels, mixed"]
    for name, cells in found["variants"].items():
        for seed, recall in enumerate(cells["v2t R@1"]["values"]):
            folder = read_grid(grid).folder(tmp_path / "out", name, seed)
            assert recall == json.loads((folder / "metrics.json").read_text())["v2t"]["R1"]
    levels = {(each["of"], each["measure"]): each for each in found["effects"]}
    means = {name: found["variants"][name]["t2v R@1"]["mean"] for name in ("levels", "entity")}
    assert levels["levels", "t2v R@1"]["effect"] == pytest.approx(means["levels"] - means["entity"])
    assert (tmp_path / "out" / "effects.png").stat().st_size > 1000
    assert "levels - entity" in (tmp_path / "out" / "table.txt").read_text()
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == found

    unfinished = read_grid(grid).folder(tmp_path / "out", "levels, mixed", 1)
    (unfinished / "metrics.json").unlink()
    partial = ablation.main([*words[:3], "--report", *words[3:]])
    assert len(partial["variants"]["levels, mixed"]["t2v R@1"]["values"]) == 1
    assert {each["of"]: each["seeds"] for each in partial["effects"]} == {"levels": 2, "levels, mixed": 1}
    capsys.readouterr()
    assert ablation.main(words) == found  # as each run draws from its seed alone
    assert capsys.readouterr().out.count(".py --seed") == 1
    monkeypatch.setattr(runs.subprocess, "run", None)
    assert ablation.main(words) == found
    with pytest.raises(InputError, match="is of a run with other flags"):
        ablation.main([*words, "--lr", "1e-3"])


@pytest.mark.slow
def test_a_grid_runs_as_jobs(corpus, tmp_path):
    """In processes of their own, as on a cluster."""
    variants = {"levels": {}, "mixed": {"flags": MIXED, "needs": {"--init_model": "levels"}}}
    flags = f"{FLAGS} --teacher exact"
    grid = write_grid(tmp_path / "grid.json", variants, flags=flags)
    words = command_line(corpus, tmp_path, grid, "--seeds", "0", "--submit", "cluster=local", "timeout_min=5")
    found = ablation.main(words)
    assert list(found["variants"]) == ["levels", "mixed"] and found["effects"] == []


def test_a_grid_of_captions(corpus, tmp_path, monkeypatch):
    captions = "--beams 1 --retrieval_weight 0"
    variants = {
        "retrieval": {"script": "main_retrieval.py", "flags": "--teacher exact"},
        "entity": {"flags": f"{captions} --num_levels 1", "needs": {"--init_model": "retrieval"}},
        "levels": {"flags": captions, "needs": {"--init_model": "retrieval"}},
    }
    flags = f"{FLAGS} --recipe corrected --datatype csv"
    grid = write_grid(tmp_path / "grid.json", variants, [("levels", "entity")], flags, "main_captioning.py")
    words = command_line(corpus, tmp_path, grid, "--seeds", "0")
    words[words.index(str(corpus.annotations))] = str(corpus.folder / "captions")
    monkeypatch.setattr(runs.subprocess, "run", script_runner(tmp_path / "log.txt"))
    found = ablation.main(words)
    assert list(found["variants"]) == ["entity", "levels"]  # the retrieval run is for its checkpoint alone
    for name, cells in found["variants"].items():
        folder = read_grid(grid).folder(tmp_path / "out", name, 0)
        metrics = json.loads((folder / "metrics.json").read_text())
        assert cells["CIDEr"]["mean"] == pytest.approx(metrics["captions"]["CIDEr"])
        assert {measure: cell["mean"] for measure, cell in cells.items() if measure != "CIDEr"} == score_run(folder)
    assert [each["measure"] for each in found["effects"]] == ["CIDEr", "things", "events", "story"]


def test_a_run_that_fails_ends_the_grid(corpus, tmp_path):
    grid = write_grid(tmp_path / "grid.json", {"first": {"flags": "--rate 0 0 0"}, "second": {}})
    with pytest.raises(InputError, match="first/seed_0: the run ended with code 2; fix its cause"):
        ablation.main(command_line(corpus, tmp_path, grid, "--seeds", "0"))
    assert not (tmp_path / "out" / "second").exists()
    with pytest.raises(InputError, match="no run is finished"):
        ablation.main(command_line(corpus, tmp_path, grid, "--report"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"variants": {"a": {"needs": {"--init_model": "b"}}, "b": {}}}, "a needs b, which no variant before it"),
        ({"variants": {"a": {}}, "comparisons": [["a", "b"]]}, "a comparison names b"),
        ({"variants": {"a": {"flag": ""}}}, "variants.a.flag"),
        ({"script": "main.py", "variants": {}}, "script"),
    ],
)
def test_grids_that_cannot_run_are_refused(content, reason, tmp_path):
    (tmp_path / "grid.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason):
        read_grid(tmp_path / "grid.json")


def test_the_grids_that_are_given_can_be_read():
    for path in (runs.ROOT / "scripts" / "experiments").glob("*.json"):
        assert read_grid(path).comparisons


def test_effects_against_their_definitions():
    draw = np.random.default_rng(0)
    first, second = draw.random((5, 40)) < 0.6, draw.random((5, 40)) < 0.45
    found = paired_effect(first, second)
    by_seed = 100 * (first.mean(axis=1) - second.mean(axis=1))
    assert found["effect"] == pytest.approx(by_seed.mean()) and found["seeds"] == 5
    signs = np.array(list(itertools.product([-1, 1], repeat=5)))
    exchanged = np.abs((signs * by_seed).mean(axis=1))
    assert found["p_seeds"] == pytest.approx((exchanged >= abs(by_seed.mean()) - 1e-9).mean())
    low, high = found["interval"]
    assert low < found["effect"] < high
    difference = 100.0 * (first.astype(float) - second)
    drawn = [difference[np.ix_(draw.integers(0, 5, 5), draw.integers(0, 40, 40))].mean() for _ in range(4000)]
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1.5)
    mirrored = paired_effect(second, first)
    assert mirrored["effect"] == -found["effect"] and mirrored["p_seeds"] == found["p_seeds"]


def test_a_single_seed_has_the_interval_of_its_queries():
    draw = np.random.default_rng(0)
    first, second = draw.random((1, 400)) < 0.6, draw.random((1, 400)) < 0.4
    found = paired_effect(first, second)
    difference = 100.0 * (first[0].astype(float) - second[0])
    half = 1.96 * difference.std() / 20
    assert found["interval"] == pytest.approx([found["effect"] - half, found["effect"] + half], abs=1.5)
    assert found["p_seeds"] is None and found["p_queries"] < 0.01 and found["seeds"] == 1


def test_equal_variants_have_no_effect():
    right = np.random.default_rng(0).random((4, 30)) < 0.5
    found = paired_effect(right, right)
    assert found == {"effect": 0.0, "interval": [0.0, 0.0], "p_seeds": 1.0, "p_queries": 1.0, "seeds": 4}
