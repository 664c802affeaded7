"""Indices of many random segments, and films of joined clips."""

import json
import os

import numpy as np
import pytest

from models import CLIPConfig
from scripts.benchmark import main
from scripts.benchmarks import model as benchmark_model
from scripts.benchmarks.films import join
from scripts.benchmarks.gallery import fill
from scripts.benchmarks.search import SAMPLING
from scripts.searching.about import Manifest
from scripts.searching.store import Store
from tests.retrieval_case import build_corpus
from utils.video.decode import Video


@pytest.fixture
def small_model(monkeypatch):
    """Towers of almost nothing, tokens as wide as ViT-B/32's."""
    monkeypatch.setattr(benchmark_model, "SIZES", CLIPConfig(16, 8, 64, 1, 64, 1, 512))


def measured(tmp_path, *words):
    file = tmp_path / "rows.json"
    main([*map(str, words), "--threads", "1", "--json", str(file)])
    return json.loads(file.read_text())["rows"]


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_small_index_finds_what_is_nearest(small_model, tmp_path, bits):
    picture = tmp_path / "curve.png"
    words = ["search", "--sizes", 200, 300, "--queries", 3, "--bits", bits, "--plot", picture]
    rows = measured(tmp_path, *words)
    assert [(row["segments"], row["recall"]) for row in rows] == [(200, 1), (300, 1)]
    assert rows[1]["GB on disk"] * 1e9 < 300 * (12 * 512 * bits / 8 + 1024 + 300) + 50_000
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif("HBI_TEST_LONG" not in os.environ, reason="takes many minutes: set HBI_TEST_LONG=1 to run it")
def test_an_index_of_a_hundred_thousand_finds_what_is_nearest(small_model, tmp_path):
    (row,) = measured(tmp_path, "search", "--sizes", 100_000, "--queries", 100)
    assert row["recall"] >= 0.98
    assert row["GB on disk"] < 0.7
    assert row["peak GiB"] < 2.5


def test_an_open_index_sees_the_one_that_replaces_it(tmp_path):
    sampling = {**SAMPLING, "max_frames": 2}
    manifest = Manifest(folder="/videos", model={"checkpoint": "x"}, digest="0" * 64,
                        sampling=sampling, max_words=32, bits=4)  # fmt: skip
    reader = Store(tmp_path)
    for size in (300, 200):
        queries = fill(Store(tmp_path), manifest, 64, size, 3)
        assert reader.count() == size
        for vector, nearest in zip(queries.vectors, queries.nearest, strict=True):
            rows = reader.nearest(vector.astype(np.float32), 1, None, ["video", "number"]).to_pylist()
            assert [100 * int(row["video"][:-4]) + row["number"] for row in rows] == [nearest]


def test_films_hold_the_clips_where_they_say(tmp_path):
    corpus = build_corpus(tmp_path / "shapes", train=2, test=4)
    films = tmp_path / "films"
    films.mkdir()
    scenes = join(corpus.annotations.parent, films, 8)
    assert len(scenes) == 4 and len({scene.film for scene in scenes}) > 1
    assert scenes[0].begin == 0 and scenes[1].begin == scenes[0].end
    for film in {scene.film for scene in scenes}:
        with Video(films / film) as video:
            last = max(scene.end for scene in scenes if scene.film == film)
            assert video.timeline.duration == pytest.approx(last, abs=0.01)
