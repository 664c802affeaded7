"""The cells of docs/walkthrough.md run in order, on small files at the quickstart's paths."""

import csv
import json
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from models import CLIP, HBI, HBIVQA
from scripts.demo import index_quickstart
from tests.conftest import SMALL, write_video
from utils.checkpoint import released_state, save_weights

WALKTHROUGH = Path(__file__).parents[1] / "docs" / "walkthrough.md"
CELL = re.compile(r"^```python\n(.*?)^```\n\n```\n(.*?)^```", re.M | re.S)
FULL = "output/quickstart", "data/shapes"


def run_walkthrough(output=FULL[0], data=FULL[1]):
    """Run the cells on a quickstart's folders; gives the names that they define, what each printed, and the page's."""
    names, printed, documented = {}, [], []
    for code, says in CELL.findall(WALKTHROUGH.read_text(encoding="utf-8")):
        for folder, used in zip(FULL, (output, data), strict=True):
            code = code.replace(f'"{folder}"', f'"{used}"')
        with redirect_stdout(StringIO()) as out:
            exec(code, names)
        printed.append(out.getvalue())
        documented.append(says)
    return names, printed, documented


def form(text):
    """A cell's output without figures, numbers of clusters, names of videos and captions."""
    text = re.sub(r"(shows|:) (a|the) .*", r"\1 CAPTION", text)
    text = re.sub(r"\[[\d, ]*\]", "[...]", text)
    text = re.sub(r"video\d+", "video", text)
    text = re.sub(r"\d:\d\d", "0:00", re.sub(r"([ -])\1+", r"\1", text))  # times, widths of columns
    return re.sub(r"-?\d+\.\d+(?![\d, )])", "0.0", text)


def check_figures(names, printed):
    """Recompute the cells' results independently."""
    model, captions, videos = names["model"], names["captions"], names["videos"]
    alone = torch.stack([
        torch.cat([model.similarity(model.encode_text(captions[row : row + 1], 24), model.encode_video(path)).view(1)
                   for path in videos])
        for row in range(len(captions))
    ])  # fmt: skip
    *lines, total = printed[3].splitlines()
    for row, line in enumerate(lines):
        value, name = line.partition(":")[0].split()
        assert float(value) == pytest.approx(alone[row].max().item(), abs=2e-3)
        assert alone[row][[path.name for path in videos].index(name)] >= alone[row].max() - 2e-3
    right = sum(line.split()[1] == f"{path.name}:" for line, path in zip(lines, videos, strict=True))
    assert total == f"{right} of {len(videos)} captions find their video"
    levels = [re.match(r"(\w+) (-?[\d.]+) (\[.*?\]) (\[.*?\])$", line).groups() for line in printed[4].splitlines()]
    mixed = sum(rate * float(level[1]) for rate, level in zip(model.rates, levels, strict=True))
    assert mixed == pytest.approx(alone[0][0].item(), abs=3e-3)
    players = [[len(set(json.loads(level[side]))) for level in levels] for side in (2, 3)]
    assert printed[5] == f"{players[0]} {players[1]}\n"
    index = names["index"]
    for line in printed[6].splitlines():
        file, start, _, end, *_, similarity = line.split()
        video = index.model.encode_video(index.file(file), start=float(start))
        text = index.model.encode_text(["a big red circle moves left, then it spins"], index.manifest.max_words)
        assert float(similarity) == pytest.approx(index.model.similarity(text, video).item(), abs=2e-3)
        assert float(end) > float(start)
    shares = [float(line.split()[-1]) for line in printed[7].splitlines()]
    assert shares == sorted(shares, reverse=True) and 0 <= sum(shares) <= 1.02
    assert Path("output/pair.png").stat().st_size


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """A folder with the quickstart's models, ten videos and their captions."""
    monkeypatch.chdir(tmp_path)
    names = [f"video{number}" for number in range(10)]
    for number, name in enumerate(names):
        write_video(Path(f"data/shapes/MSRVTT_Videos/{name}.mp4"), hue=number)
    annotations = Path("data/shapes/anns/MSRVTT_JSFUSION_test.csv")
    annotations.parent.mkdir()
    with annotations.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "vid_key", "video_id", "sentence", "subset"])
        writer.writerows([[f"ret{name}", name, name, f"a noise that is number {name}", ""] for name in names])
    torch.manual_seed(0)
    for name, model in (("hbi_exact", HBI(CLIP(SMALL))), ("vqa", HBIVQA(CLIP(SMALL), ["red", "green", "blue"]))):
        save_weights(released_state(model), Path(f"output/quickstart/{name}/pytorch_model.bin.best.0"))
    Path("output/quickstart/vqa/train_ans2label.json").write_text(json.dumps({"red": 0, "green": 1, "blue": 2}))


def test_the_walkthrough_prints_what_the_page_says(quickstart, capsys):
    assert index_quickstart() == Path("output/quickstart/index")
    assert "10 videos computed" in capsys.readouterr().out
    names, printed, documented = run_walkthrough()
    check_figures(names, printed)
    for says, page in zip(printed[2:], documented[2:], strict=True):  # the first two name the sizes of the model
        assert form(says).count("\n") == form(page).count("\n")


def test_the_quickstarts_index_is_brought_up_to_date(quickstart, capsys):
    index_quickstart()
    shutil.move("data/shapes/MSRVTT_Videos/video0.mp4", "data/shapes/MSRVTT_Videos/other.mp4")
    index_quickstart()
    assert "0 videos computed, 9 kept, 1 moved" in capsys.readouterr().out
