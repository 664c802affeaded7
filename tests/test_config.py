"""config.json: description of a run, and its use by evaluation and loading."""

import json
import shutil

import pytest

import main_retrieval
from models import load_model
from tests.retrieval_case import build_corpus, read_metrics
from utils.config import CONFIG, RunConfig, find_config
from utils.errors import InputError

CHOSEN = ["--recipe", "corrected", "--rate", ".4", ".3", ".3", "--num_levels", "3", "--t_rate0", ".5", "--kl", "2",
          "--max_words", "12", "--max_frames", "5", "--slice_framepos", "0"]  # fmt: skip
SMALL = ["--batch_size", "10", "--batch_size_val", "4", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=8, test=8)


@pytest.fixture(scope="module")
def launch(corpus):
    def call(folder, *words):
        paths = ["--anno_path", corpus.annotations, "--video_path", corpus.videos, "--output_dir", folder]
        return main_retrieval.main([*map(str, paths), *SMALL, *map(str, words)])

    return call


@pytest.fixture(scope="module")
def trained(corpus, launch, tmp_path_factory):
    """The folder of a run with options of its own, and its metrics."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["--do_train", "--epochs", "1", "--base_encoder", corpus.clip, "--augment", "none", "--seed", "5"]
    return folder, launch(folder, *words, *CHOSEN)


def log(folder):
    return (folder / "log.txt").read_text()


def test_the_file_says_what_the_run_was(trained, corpus):
    folder, _ = trained
    config = find_config(folder / "pytorch_model.bin.best.0")
    assert (config.method, config.quick_gelu, config.processes) == ("hbi", True, 1)
    options = {"recipe": "corrected", "rates": [0.4, 0.3, 0.3], "trained_levels": 3, "text_rates": [0.5, 0.5], "kl": 2}
    assert options.items() <= config.options.items()
    flags = {"max_words": 12, "max_frames": 5, "slice_framepos": 0, "seed": 5, "datatype": "msrvtt", "frame_rule": None}
    assert flags.items() <= config.flags.items()
    assert config.flags["base_encoder"] == str(corpus.clip)
    assert config.command[-len(CHOSEN) :] == CHOSEN
    assert {"python", "torch", "av"} <= config.versions.keys()
    assert config.commit is None or len(config.commit) >= 40


def test_the_folder_alone_gives_the_metrics_of_the_training(trained, launch, tmp_path):
    folder, metrics = trained
    assert launch(tmp_path, "--do_eval", "--init_model", folder / "pytorch_model.bin.best.0") == metrics
    assert read_metrics(tmp_path) == metrics and "given, and taken" not in log(tmp_path)
    moved = tmp_path / "copy"
    moved.mkdir()
    shutil.copy(folder / "pytorch_model.bin.best.0", moved)
    similar = ["--do_eval", "--save_similarity", "--init_model", moved / "pytorch_model.bin.best.0"]
    launch(tmp_path / "released", *similar)
    assert "assumed to be trained with" in log(tmp_path / "released")
    assert "--recipe=released" in log(tmp_path / "released") and "--max_words=32" in log(tmp_path / "released")
    assert load_model(similar[-1]).recipe != load_model(folder / "pytorch_model.bin.best.0").recipe
    shutil.copy(folder / CONFIG, moved)
    assert launch(tmp_path / "copied", *similar) == metrics


def test_a_flag_that_contradicts_the_file_wins_and_is_reported(trained, launch, tmp_path):
    folder, metrics = trained
    words = ["--do_eval", "--init_model", folder / "pytorch_model.bin.best.0"]
    launch(tmp_path, *words, "--rate", "0", "0", "1", "--max_words", "12")
    line = f"{folder / CONFIG}: --rate 0.4 0.3 0.3; given, and taken: --rate 0.0 0.0 1.0"
    assert line in log(tmp_path) and "--max_words" not in log(tmp_path)
    run = json.loads((tmp_path / "metrics.json").read_text())["run"]
    assert run["config"]["options"]["rates"] == [0, 0, 1]
    assert RunConfig.model_validate(run["config"]).flags["max_frames"] == 5


def test_metrics_name_the_checkpoint_and_count_what_was_used(trained, launch, corpus, tmp_path, capsys):
    folder, _ = trained
    run = json.loads((folder / "metrics.json").read_text())["run"]
    assert run["checkpoint"]["file"] == str(folder / "pytorch_model.bin.best.0")
    assert len(run["checkpoint"]["sha256"]) == 64
    assert {name: run[name] for name in ("captions", "videos", "captions_left_out", "videos_left_out")} == {
        "captions": 8, "videos": 8, "captions_left_out": 0, "videos_left_out": 0
    }  # fmt: skip
    (tmp_path / "skip.txt").write_text("video8\nvideo9\n")
    launch(tmp_path / "out", "--do_eval", "--init_model", folder / "pytorch_model.bin.0", "--skip_list",
           tmp_path / "skip.txt")  # fmt: skip
    run = json.loads((tmp_path / "out" / "metrics.json").read_text())["run"]
    assert (run["videos"], run["videos_left_out"], run["captions_left_out"]) == (6, 2, 2)
    assert "6 of 8 captions, 6 of 8 videos" in capsys.readouterr().out


def test_load_model_takes_the_options_of_the_run(trained):
    model = load_model(trained[0] / "pytorch_model.bin.best.0")
    assert model.options.recipe == "corrected" and model.rates == (0.4, 0.3, 0.3)
    assert load_model(trained[0] / "pytorch_model.bin.best.0", recipe="released", rates=(1, 0, 0)).rates == (1, 0, 0)


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda config: config["options"].update(rates=[1, 0]), "options: rates.2: Field required"),
        (lambda config: config["options"].update(recipe="mine"), "options: recipe"),
        (lambda config: config["options"].update(size=3), "options.size: unknown"),
        (lambda config: config.update(size=3), "config.json: size: Extra inputs"),
        (lambda config: config.pop("quick_gelu"), "config.json: quick_gelu: Field required"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(damage, place, trained, tmp_path):
    shutil.copy(trained[0] / "pytorch_model.bin.0", tmp_path)
    config = json.loads((trained[0] / CONFIG).read_text())
    damage(config)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match=place.replace(".", r"\.")) as error:
        load_model(tmp_path / "pytorch_model.bin.0")
    assert str(tmp_path / CONFIG) in str(error.value) and "copy the file again" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("max_words", "many", "argument --max_words: a whole number is needed"),
        ("rate", [1, 0, -1], "argument --rate: a number is needed, 0 or more, not '-1'"),
        ("rate", [1, 0, 0, "--trust_checkpoint"], "argument --rate: expected 3 arguments"),
        ("recipe", ["released", "--trust_checkpoint"], "argument --recipe: invalid choice"),
    ],
)
def test_flags_of_the_file_are_read_as_strictly_as_typed_ones(name, value, place, trained, launch, tmp_path, capsys):
    shutil.copy(trained[0] / "pytorch_model.bin.0", tmp_path)
    config = json.loads((trained[0] / CONFIG).read_text())
    config["flags"][name] = value
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        launch(tmp_path / "out", "--do_eval", "--init_model", tmp_path / "pytorch_model.bin.0")
    assert f"error: {tmp_path / CONFIG}: {place}" in capsys.readouterr().err


def test_another_projects_file_and_broken_json(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path)
    (tmp_path / CONFIG).write_text('{"model_type": "clip"}')
    assert find_config(tmp_path / checkpoint.name) is None and load_model(tmp_path / checkpoint.name)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(InputError, match=r"config\.json, line 1: is no JSON"):
        find_config(tmp_path / checkpoint.name)
