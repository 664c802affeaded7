"""The retrieval commands of docs/commands.md, unchanged, on moving shapes and tiny weights."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.retrieval_case import build_corpus, read_metrics, run_launcher

ROOT = Path(__file__).parents[1]
CLIPS = 12


def commands(heading):
    """The shell blocks below a heading of docs/commands.md."""
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.partition(f"\n### {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```bash\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def copy_tree(target):
    """Copy the project as git sees it, without what it ignores."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def keep_first(path, count):
    path.write_text(json.dumps(json.loads(path.read_text())[:count]))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, and data.

    CLIP's weights are in models/, MSR-VTT's annotations in data/, all else in DATA_PATH.
    """
    folder = tmp_path_factory.mktemp("project")
    tree, data = folder / "tree", folder / "data"
    copy_tree(tree)
    corpus = build_corpus(data, train=26, test=CLIPS)  # 26 videos of 5 captions fill one batch of 128
    shutil.copy(corpus.clip, tree / "models" / "ViT-B-32.pt")
    shutil.copytree(corpus.annotations, tree / "data" / "MSR-VTT" / "anns")
    keep_first(data / "ActivityNet" / "train_ids.json", 16)
    keep_first(data / "ActivityNet" / "val_ids.json", 6)
    return tree, corpus


@pytest.fixture
def shell(project, tmp_path):
    """Runs a block in the copy of the project and returns its output folder."""
    tree, corpus = project

    def call(name, block, checkpoint=""):
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
            "DATA_PATH": corpus.folder, "OUTPUT_PATH": tmp_path / name, "CHECKPOINT_PATH": checkpoint,
            "ESTIMATOR_PATH": corpus.estimator,
        }
        environment = os.environ | {variable: str(value) for variable, value in environment.items()}
        result = run_launcher(["bash", "-euc", block], 2502, cwd=tree, env=environment)
        assert result.returncode == 0, result.stderr
        assert "text to video" in result.stdout
        return tmp_path / name

    return call


@pytest.mark.slow
def test_retrieval_commands(shell):
    (train,) = commands("Train on MSR-VTT")
    folder = shell("train", train)
    best = next(folder.glob("pytorch_model.bin.best.*"))
    assert {path.name for path in folder.glob("*.bin.[0-9]")} == {f"pytorch_model.bin.{epoch}" for epoch in range(5)}

    launch, torchrun, python = commands("Evaluate on MSR-VTT")
    assert (launch.split()[2], torchrun.split()[0], python.split()[1]) == (
        "torch.distributed.launch", "torchrun", "main_retrieval.py"
    )
    similar = " --save_similarity\n"
    outputs = [
        shell("launch", launch.rstrip() + similar, best),
        shell("torchrun", torchrun, best),
        shell("python", python.rstrip() + similar, best),
    ]
    for output in outputs:
        assert read_metrics(output) == read_metrics(folder)
    of_two, of_one = (np.load(output / "similarity.npy") for output in (outputs[0], outputs[2]))
    assert of_two.shape == (CLIPS, CLIPS) and np.abs(of_two - of_one).max() < 1e-5

    (evaluate,) = commands("Evaluate on ActivityNet Captions")
    assert read_metrics(shell("evaluate-activity", evaluate, best))["v2t"]["R10"] == 100  # of six clips


@pytest.mark.slow
def test_activitynet_training_on_eight_processes(shell):
    """One epoch of small batches: the unchanged command takes seven minutes and 15 GB on two processors."""
    (train,) = commands("Train on ActivityNet Captions")
    assert "--nproc_per_node=8" in train and "--epochs 10" in train and "--batch_size 128" in train
    folder = shell("train", train.replace("--epochs 10", "--epochs 1").replace("--batch_size 128", "--batch_size 8"))
    assert (folder / "pytorch_model.bin.0").is_file()
    assert "step 2 of 2" in (folder / "log.txt").read_text()
    assert read_metrics(folder)["t2v"]["R10"] == 100  # of six clips, fewer than processes
