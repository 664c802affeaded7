"""Blocks of the pages that can run on the data of `quickstart.sh --fast` run, and print what the pages show."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from dataloaders import DATASETS
from models import METHODS, load_model
from tests.test_walkthrough import check_figures, form, run_walkthrough

ROOT = Path(__file__).parents[1]
OUTPUT, DATA = "output/quickstart-fast", "data/shapes-fast"
ELSEWHERE = ("demo.md", "own_data.md", "walkthrough.md")
"""Pages with tests of their own."""
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in ELSEWHERE)]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```(?:\n\n```(?:text)?\n(.*?)^```)?", re.M | re.S)
STAND_INS = {
    "output/quickstart": OUTPUT,
    "data/shapes": DATA,
    "data/MSR-VTT/anns": f"{DATA}/anns",
    "${DATA_PATH}/MSRVTT_Videos": f"{DATA}/MSRVTT_Videos",
    " MSRVTT_Videos": f" {DATA}/MSRVTT_Videos",
    "${CHECKPOINT_PATH}": f"{OUTPUT}/hbi/pytorch_model.bin.1",
    "output/run": f"{OUTPUT}/hbi_exact",
    "pytorch_model.bin.4": f"{OUTPUT}/hbi_exact/pytorch_model.bin.1",
    "${OUTPUT_PATH}": "output/evaluation",
    "my_videos/match.mp4": f"{DATA}/MSRVTT_Videos/video480.mp4",
    "my_video.mp4": f"{DATA}/MSRVTT_Videos/video480.mp4",
    "my_videos": f"{DATA}/MSRVTT_Videos",
    "video1200": "video480",
}
"""Names in the pages -> files of the quickstart."""
NOT_HERE = {
    r"torchrun|-m torch\.distributed|sbatch|scripts/(torchrun|slurm|train)_?\w*\.sh": "processes, CLIP's weights",
    r"pip install|setup\.sh|venv |activate|rm -rf \.venv": "changes the installation",
    r"quickstart\.sh|scripts/(test(_\w+)?|mutation)\.sh|pytest|\.ci/run": "runs everything",
    r"scripts/demo\.py": "serves until it is interrupted; tests/demo does it",
    r"ablation\.py|compare_methods\.py|pretrain_clip\.py|shapes-1000": "trains for long",
    r"benchmark\.py|scripts\.benchmarks": "measures for long",
    r"USER/MODEL": "needs the Hub; tests/test_hub.py does it",
    r"--do_train": "trains; the quickstart does it",
    r"exported": "needs ONNX; tests/test_export.py does it",
}
"""Lines and Python blocks that are not run, and why."""


def runs_here(text):
    return not any(re.search(pattern, text) for pattern in NOT_HERE)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A folder with the code and the results of `quickstart.sh --fast`."""
    if not (ROOT / OUTPUT / "results.json").exists():
        pytest.skip("bash scripts/quickstart.sh --fast has not run here")
    folder = tmp_path_factory.mktemp("docs")
    for path in (*map(ROOT.joinpath, ("models", "dataloaders", "utils", "scripts")), *ROOT.glob("*.py")):
        (folder / path.name).symlink_to(path)
    for name in (OUTPUT, DATA):
        (folder / name).parent.mkdir()
        (folder / name).symlink_to(ROOT / name)
    return folder


def blocks(page, *languages):
    """Blocks of a page, with the stand-ins, and the output shown below each, "" if none is shown."""
    for language, text, says in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            for name, used in STAND_INS.items():
                text = re.sub(rf"{re.escape(name)}(?![\w-])", used, text)
            yield re.sub(rf"{OUTPUT}/\w+/pytorch_model\.bin\.(best\.)?\d+", checkpoint, text), says


def checkpoint(match):
    """A checkpoint that a page names, or the best one of the run, which has fewer epochs."""
    path = ROOT / match[0]
    best = "" if path.is_file() else next((best.name for best in path.parent.glob("*.best.*")), "")
    return str(Path(match[0]).with_name(best or path.name))


def pages_with(language):
    """The pages that have blocks of a language which run here; "" is a session that begins with "$ "."""
    return [
        page for page in PAGES
        if any(runs_here(text) and (language or text.startswith("$ ")) for text, _ in blocks(page, language))
    ]


def commands():
    """The command lines of all pages that can run here."""
    for page in PAGES:
        for text, _ in blocks(page, "bash"):
            for line in re.sub(r"\\\n\s*", "", text).splitlines():
                line = line.partition("   #")[0].strip()
                if line and not line.startswith("#") and runs_here(line):
                    yield pytest.param(line, id=f"{page.name} {line[:60]}")


def run_line(line, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-c", line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.parametrize("line", list(commands()))
def test_a_command_of_the_pages_runs(quickstart, line):
    result = run_line(line, quickstart)
    assert result.returncode == 0, result.stderr[-2000:]
    for word in shlex.split(line):  # what it is to write
        if word.startswith("output/evaluation"):
            assert (quickstart / word).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with(""), ids=lambda page: page.name)
def test_a_session_of_a_page_prints_what_it_shows(quickstart, page):
    for text, _ in blocks(page, ""):
        if text.startswith("$ "):
            line, says = text[2:].split("\n", 1)
            assert form(run_line(line, quickstart).stdout) == form(says)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(quickstart, page, monkeypatch):
    monkeypatch.chdir(quickstart)
    names = {"load_model": load_model, "torch": torch}
    names["model"] = load_model(f"{OUTPUT}/hbi/pytorch_model.bin.1")  # of README, which other pages go on with
    names |= dict(zip(("token_sim", "text_mask", "video_mask", "text_score", "video_score"), players(), strict=True))
    for text, says in blocks(page, "python"):
        if not runs_here(text):
            continue
        with redirect_stdout(StringIO()) as out, patch.dict(METHODS), patch.dict(DATASETS):
            exec(text, names)
        assert not says or form(out.getvalue()) == form(says)


def players(pairs=2, words=5, frames=4):
    """Similarities, masks and scores of words and frames, for docs/banzhaf.md."""
    lengths = torch.ones(pairs, words).bool(), torch.ones(pairs, frames).bool()
    return torch.rand(pairs, words, frames), *lengths, torch.rand(pairs, words), torch.rand(pairs, frames)


@pytest.mark.slow
def test_the_walkthrough_after_the_fast_quickstart(quickstart, monkeypatch):
    monkeypatch.chdir(quickstart)
    names, printed, _ = run_walkthrough(OUTPUT, DATA)
    check_figures(names, printed)
