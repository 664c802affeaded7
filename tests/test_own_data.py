"""Your own pairs: dividing them, the preset for small data, and docs/own_data.md from top to bottom."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from models import METHODS
from scripts.split_pairs import main as split_pairs
from utils.args import read_command, retrieval_parser
from utils.errors import InputError
from utils.presets import PRESETS

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", (ROOT / "docs" / "own_data.md").read_text(), re.M | re.S)
SMALLER = {"--train 120 --test 40": "--train 24 --test 8", "--steps 300": "--steps 5", "--epochs 5": "--epochs 1"}
"""Commands of the page -> shorter ones of its test, which ignores the quality of the model."""


def write_pairs(path, videos, rows=("caption",)):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", *rows])
        writer.writerows([f"{name}.mp4", f"a caption, of {name}"] for name in videos)
    return path


def read_videos(path):
    return [row["video"] for row in csv.DictReader(path.open())]


def test_every_video_is_in_one_split(tmp_path, capsys):
    names = [f"v{number // 2}" for number in range(40)]  # two captions of each of 20 videos
    split_pairs([str(write_pairs(tmp_path / "pairs.csv", names)), "--output", str(tmp_path / "out"), "--val", "0.1"])
    splits = {name: read_videos(tmp_path / "out" / f"{name}.csv") for name in ("train", "val", "test")}
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 30, "val": 4, "test": 6}
    assert sorted(sum(splits.values(), [])) == sorted(f"{name}.mp4" for name in names)
    assert not set(splits["train"]) & set(splits["test"]) and not set(splits["val"]) & set(splits["test"])
    assert "6 captions of 3 videos" in capsys.readouterr().out
    split_pairs([str(tmp_path / "pairs.csv"), "--output", str(tmp_path / "again"), "--val", "0.1"])
    assert read_videos(tmp_path / "again" / "test.csv") == splits["test"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("video,text\na,b\n", "line 1: has no column caption"),
        ("", "line 1: has no column caption"),
        ("video,caption\na,b,c\n", "row 2: has not 2 columns"),
        ("video,caption\na,b\nb,c\n", "2 videos: none is left for val"),
    ],
)
def test_files_that_cannot_be_divided(content, reason, tmp_path):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(InputError, match=reason):
        split_pairs([str(tmp_path / "pairs.csv"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["hbi", "drl"])
def test_flags_win_over_the_preset(method):
    words = "--do_train 1 --anno_path a --video_path b --output_dir c --preset small --batch_size 128 --lr 1e-4"
    methods = {name: kind.add_arguments for name, kind in METHODS.items()}
    args = read_command(methods, retrieval_parser, [*words.split(), "--method", method])
    found = {name: getattr(args, name) for name in PRESETS["small"] if name in args}
    assert found == {name: PRESETS["small"][name] for name in found} | {"batch_size": 128}
    assert ("teacher" in found) == (method == "hbi") and "--recipe=corrected" in args.notes[0]


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path):
    for name in ("scripts", "models", "main_retrieval.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    printed, missing = [], set(SMALLER)
    for language, block in BLOCKS:
        missing -= {size for size in SMALLER if size in block}
        for size, smaller in SMALLER.items():
            block = block.replace(size, smaller)
        command = ["bash", "-ec", block] if language == "bash" else [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        printed.append(done.stdout)
    assert not missing
    trained, evaluated = (
        json.loads((tmp_path / "output" / name / "metrics.json").read_text()) for name in ("own", "own_test")
    )
    assert evaluated["t2v"] == trained["t2v"] and evaluated["run"]["videos"] == 8
    everything = "\n".join(printed)
    assert "56 captions" in everything and "32 videos, 128 numbers each" in everything
    assert "torch.Size([1, 2])" in everything and everything.count(".mp4") >= 3
    assert (tmp_path / "output" / "own_model" / "README.md").read_text().count("| text to video |") == 1
