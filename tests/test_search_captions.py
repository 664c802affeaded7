"""An index with captions of its segments: writing, filters, output, updates, and refused input."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from models import CLIP, HBI
from scripts.search import main as search
from scripts.searching.captions import Captioner, check_captioner
from scripts.searching.query import VideoIndex
from scripts.searching.store import Store, quoted
from tests.caption_case import save_captioner
from tests.conftest import SMALL, write_video
from tests.search_case import SIZES, content, make_index, manifest_of, write_videos
from utils.errors import InputError


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """The file of a captioning model, and the model."""
    path = tmp_path_factory.mktemp("captions") / "pytorch_model.bin.0"
    return path, save_captioner(path)


def index_words(videos, checkpoint, address, *flags):
    return ["index", str(videos), "--checkpoint", str(checkpoint), "--index", str(address), "--device", "cpu", *SIZES,
            *map(str, flags)]  # fmt: skip


def test_segments_are_described_found_and_shown(checkpoint, videos, captions, tmp_path, capsys):
    path, model = captions
    search(index_words(videos, checkpoint, tmp_path / "index", "--captions", path))
    index = VideoIndex(tmp_path / "index")
    hits = index.search("noise", top=20)
    said = [hit.description for hit in hits]
    assert said == [model.describe(videos / hit.file, **index.sampling(hit)).caption for hit in hits]
    assert all(said) and len(set(said)) > 1
    found = index.search("noise", top=20, where=f"description = {quoted(said[0])}")
    assert found and {hit.description for hit in found} == {said[0]}
    assert index.search("noise", where="description = 'nothing of the kind'") == []

    capsys.readouterr()
    search(["query", "noise", "--top", "2", "--json", f"{tmp_path}/found.json", "--index", f"{tmp_path}/index"])
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "description" and [row.endswith(text) for row, text in zip(rows, said, strict=False)]
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [result["description"] for result in results] == said[:2]


def test_what_was_described_is_kept(checkpoint, videos, captions, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(videos, tmp_path / "videos")
    words = index_words(folder, checkpoint, tmp_path / "index", "--captions", captions[0])
    search(words)
    before = content(tmp_path / "index")
    write_video(folder / "added.mp4", hue=7)
    (tmp_path / "details.csv").write_text("video,caption\na.mp4,a match\n")
    search([*words, "--details", str(tmp_path / "details.csv")])
    assert "1 videos computed, 4 kept" in capsys.readouterr().out
    after = content(tmp_path / "index")
    said = {(row["video"], row["number"]): row["description"] for row in after}
    assert said.pop(("added.mp4", 0))
    assert said == {(row["video"], row["number"]): row["description"] for row in before}
    assert {row["caption"] for row in after if row["video"] == "a.mp4"} == {"a match"}


def test_another_captioner_asks_for_a_rebuild(checkpoint, videos, captions, tmp_path):
    search(index_words(videos, checkpoint, tmp_path / "index"))
    assert "description" not in content(tmp_path / "index")[0]
    with pytest.raises(InputError, match="was made with captions None, .*--rebuild"):
        search(index_words(videos, checkpoint, tmp_path / "index", "--captions", captions[0]))
    search(index_words(videos, checkpoint, tmp_path / "index", "--captions", captions[0], "--rebuild"))
    save_captioner(tmp_path / "other.bin", seed=1)
    for flags in ((), ("--captions", tmp_path / "other.bin")):
        with pytest.raises(InputError, match=r"was made with captions \w{64}, not .*--rebuild"):
            search(index_words(videos, checkpoint, tmp_path / "index", *flags))
    assert all(row["description"] for row in content(tmp_path / "index"))


def test_captioners_that_do_not_fit(model, checkpoint, videos, captions, tmp_path):
    with pytest.raises(InputError, match=r"has no caption decoder; give a checkpoint of main_captioning\.py"):
        search(index_words(videos, checkpoint, tmp_path / "index", "--captions", checkpoint))
    captioner = Captioner.load(str(captions[0]), "cpu")
    manifest = manifest_of(model, checkpoint, videos, captions=captioner.digest)
    check_captioner(captioner, model, manifest)
    with pytest.raises(InputError, match="has captions of another model"):
        make_index(model, checkpoint, videos, tmp_path / "index", captions="0" * 64)
    torch.manual_seed(0)
    larger = HBI(CLIP(replace(SMALL, resolution=2 * SMALL.resolution)), temporal_layers=1)
    with pytest.raises(InputError, match="reads frames of 32 pixels, the index has 64"):
        check_captioner(captioner, larger, manifest)
    sampling = manifest.sampling.model_copy(update={"max_frames": 78})
    with pytest.raises(InputError, match="has positions for 77 frames"):
        check_captioner(captioner, model, manifest.model_copy(update={"sampling": sampling}))
    assert Store(tmp_path / "index").manifest() is None
