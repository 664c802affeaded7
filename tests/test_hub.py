"""Models as folders and on the Hub: writing, reading, and torch.hub from a clone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants

import main_retrieval
from models import ANSWER_METHODS, CLIP, HBI, METHODS, load_model
from models.export import fetch
from scripts.export import main as export
from tests.conftest import SMALL
from tests.retrieval_case import build_corpus, read_metrics
from utils.checkpoint import released_state, save_weights
from utils.config import CONFIG, find_config
from utils.errors import InputError
from utils.files import MARKER

ROOT = Path(__file__).parents[1]
COMMIT = "0" * 40
OPTIONS = {
    "hbi": {"recipe": "corrected", "rates": (0.5, 0.25, 0.25), "kl": 3},
    "clip4clip": {"sim_header": "seqTransf", "freeze_layer_num": 1},
    "drl": {"interaction": "ti", "cdcr": 2},
    "emcl": {"centerK": 7, "temp": 2.0},
    "dicosa": {"center": 4, "qbnorm": 0},
    "diffusionret": {"diffusion_steps": 5, "t2v_num": 3},
}


def build(method, **options):
    torch.manual_seed(0)
    return METHODS[method](CLIP(SMALL), temporal_layers=1, **options).eval()


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_gives_back_every_method_and_its_options(method, tmp_path):
    model = build(method, **OPTIONS[method])
    model.save_pretrained(tmp_path)
    for loaded in (load_model(tmp_path), type(model).from_pretrained(tmp_path)):
        assert type(loaded) is type(model) and loaded.options == model.options and not loaded.training
        expected, found = released_state(model), released_state(loaded)
        assert expected.keys() == found.keys() and all(torch.equal(found[name], x) for name, x in expected.items())
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0" in card and f"@misc{{{method}," in card and "eprint        = {2" in card
    assert "text-video retrieval" in card and "Not recorded: there is no config.json" in card


def test_a_folder_gives_back_answers(tmp_path):
    model = ANSWER_METHODS["emcl"](CLIP(SMALL), ["yes", "no"], temporal_layers=1, freeze_layer_num=1)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.answers == ("yes", "no") and loaded.options == model.options
    assert "video question answering" in (tmp_path / "README.md").read_text()


def test_saving_again_writes_another_card_and_a_foreign_folder_is_left_alone(tmp_path):
    build("hbi").save_pretrained(tmp_path / "a")
    build("dicosa").save_pretrained(tmp_path / "a")
    assert "@misc{dicosa," in (tmp_path / "a" / "README.md").read_text()
    (tmp_path / "b").mkdir()
    for name in ("README.md", CONFIG):
        (tmp_path / "b" / name).write_text("mine")
    with pytest.raises(InputError, match="which no export of this version wrote"):
        build("hbi").save_pretrained(tmp_path / "b")
    assert {path.read_text() for path in (tmp_path / "b").iterdir()} == {"mine"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub whose uploads go into the library's cache, from which it reads offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def upload(self, *, repo_id, folder_path, ignore_patterns, **_):
        folder = tmp_path / "cache" / f"models--{repo_id.replace('/', '--')}"
        shutil.copytree(folder_path, folder / "snapshots" / COMMIT, ignore=shutil.ignore_patterns(*ignore_patterns))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)
        return f"hub/{repo_id}"

    class Repository:
        def __init__(self, repo_id, **_):
            self.repo_id = repo_id

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr(HfApi, "create_repo", lambda self, **options: Repository(**options))
    return tmp_path / "cache"


def test_a_model_is_pushed_and_loaded_offline_by_its_name(hub):
    model = build("drl", **OPTIONS["drl"])
    assert model.push_to_hub("someone/drl-tiny") == "hub/someone/drl-tiny"
    files = {path.name for path in hub.rglob("*") if path.is_file()}
    assert files == {"main", CONFIG, "model.safetensors", "README.md"} and MARKER not in files
    for loaded in (load_model("someone/drl-tiny"), type(model).from_pretrained("someone/drl-tiny")):
        assert loaded.options == model.options and torch.equal(loaded.scale, model.scale)
    for other in (METHODS["clip4clip"], ANSWER_METHODS["emcl"]):
        with pytest.raises(InputError, match="someone/drl-tiny: a model of the method drl, not a"):
            other.from_pretrained("someone/drl-tiny")


def test_a_name_that_is_nowhere_is_refused_in_one_line(hub, tmp_path, monkeypatch):
    for name in ("someone/nothing", "someone/-/x", "nothing.bin"):
        with pytest.raises(InputError, match="no such file") as error:
            load_model(name)
        assert "\n" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    with pytest.raises(InputError, match=r"output/model\.bin: no such file; check the path"):  # a file of a folder here
        load_model("output/model.bin")


def test_only_the_files_of_a_model_are_fetched(monkeypatch, tmp_path):
    asked = []

    def download(name, **options):
        asked.append((name, options))
        return tmp_path

    monkeypatch.setattr("models.export.snapshot_download", download)
    assert fetch("user/model", revision="x") == tmp_path
    assert asked == [("user/model", {"allow_patterns": ["config.json", "model.safetensors"], "revision": "x"})]


def test_a_model_of_the_hub_goes_to_the_device(tmp_path):
    build("hbi").save_pretrained(tmp_path)
    model = HBI.from_pretrained(tmp_path, device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"} and not model.training


def test_offline_is_what_the_environment_says(tmp_path):
    code = "from models import load_model; load_model('someone/nothing')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    last = result.stderr.strip().splitlines()[-1]
    assert "someone/nothing: no such file or folder, and no model of the Hub or its cache" in last


def test_torch_hub_loads_from_a_clone(tmp_path):
    model = build("clip4clip")
    model.save_pretrained(tmp_path / "model")
    code = (
        "import sys, torch\n"
        "model = torch.hub.load(sys.argv[1], 'load_model', sys.argv[2], source='local')\n"
        "print(type(model).__name__, model.options.sim_header)"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "model")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["CLIP4Clip", "meanP"], result.stderr[-2000:]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=8, test=8)


CHOSEN = ["--recipe", "corrected", "--rate", ".4", ".3", ".3", "--t_rate0", ".5", "--kl", "2", "--max_words", "12",
          "--max_frames", "5", "--slice_framepos", "0"]  # fmt: skip


def test_the_folder_alone_gives_the_metrics_of_the_training(corpus, tmp_path):
    paths = ["--anno_path", corpus.annotations, "--video_path", corpus.videos, "--workers", 0, "--device", "cpu"]

    def launch(name, *words):
        words = [*paths, "--batch_size", 10, "--batch_size_val", 4, "--output_dir", tmp_path / name, *words]
        return main_retrieval.main(list(map(str, words)))

    training = ["--do_train", "--epochs", "1", "--base_encoder", corpus.clip, "--augment", "none", *CHOSEN]
    metrics = launch("run", *training)
    export(["--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "exported"), "--without_onnx"])
    for checkpoint in ("run", "exported", "exported/model.safetensors"):
        assert launch("evaluated", "--do_eval", "--init_model", tmp_path / checkpoint) == metrics
        assert read_metrics(tmp_path / "evaluated") == metrics
    config = json.loads((tmp_path / "exported" / CONFIG).read_text())
    assert config["options"]["rates"] == [0.4, 0.3, 0.3] and config["run"]["flags"]["max_words"] == 12
    card = (tmp_path / "exported" / "README.md").read_text()
    assert f"| text to video | {metrics['t2v']['R1']:g} |" in card and "8 captions, 8 videos" in card
    assert "| recipe | corrected |" in card and "max_frames=5" in card

    other = load_model(tmp_path / "run", rates=(0, 0, 1))  # no longer the model of the run
    other.save_pretrained(tmp_path / "other")
    assert find_config(tmp_path / "other") is None and load_model(tmp_path / "other").rates == (0, 0, 1)
    assert "Not recorded" in (tmp_path / "other" / "README.md").read_text()
    moved = load_model(tmp_path / "run")
    moved.clip.logit_scale.data += 1
    moved.save_pretrained(tmp_path / "moved")
    assert find_config(tmp_path / "moved") is None


def test_an_option_of_another_method_is_refused(tmp_path):
    build("dicosa").save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="the method dicosa has no option rates; leave it out"):
        load_model(tmp_path / "model", rates=(1, 0, 0))


def test_a_checkpoint_of_weights_alone_is_exported_with_the_options_given(tmp_path):
    save_weights(released_state(build("hbi")), tmp_path / "pytorch_model.bin.0")
    words = ["--checkpoint", tmp_path / "pytorch_model.bin.0", "--output", tmp_path / "out", "--without_onnx"]
    export([*map(str, words), "--recipe", "corrected", "--rate", "0", "1", "0"])
    loaded = load_model(tmp_path / "out")
    assert isinstance(loaded, HBI) and loaded.options.recipe == "corrected" and loaded.rates == (0, 1, 0)
