"""The cells of docs/walkthrough.md run one after another, on small files in the quickstart's places."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from models import CLIP, HBI
from scripts.demo import index_quickstart
from tests.conftest import SMALL, write_video
from utils.checkpoint import released_state, save_weights

CELLS = re.findall(
    r"^```python\n(.*?)^```", (Path(__file__).parents[1] / "docs" / "walkthrough.md").read_text(), re.M | re.S
)


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """A folder in which the quickstart has left a model and two videos."""
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        write_video(Path(f"data/shapes/MSRVTT_Videos/video60{number}.mp4"), hue=number)
    torch.manual_seed(0)
    save_weights(
        released_state(HBI(CLIP(SMALL), temporal_layers=1)),
        Path("output/quickstart/hbi_exact/pytorch_model.bin.best.0"),
    )


def test_the_cells_of_the_walk_run(quickstart, capsys):
    assert index_quickstart() == Path("output/quickstart/index")
    assert "2 videos computed" in capsys.readouterr().out
    names = {}
    for cell in CELLS:
        exec(cell, names)
        assert capsys.readouterr().out
    assert Path("output/pair.png").stat().st_size


def test_the_quickstarts_index_is_brought_up_to_date(quickstart, capsys):
    index_quickstart()
    shutil.move("data/shapes/MSRVTT_Videos/video600.mp4", "data/shapes/MSRVTT_Videos/other.mp4")
    index_quickstart()
    assert "1 videos computed, 1 kept, 1 removed" in capsys.readouterr().out
