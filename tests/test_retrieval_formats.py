"""Training and evaluation of every data set through main_retrieval.py, in one process and in two."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from main_retrieval import main
from models.clip import CLIP
from tests.conftest import SMALL
from tests.formats import FORMATS, write_format
from tests.processes import run_together
from tests.retrieval_case import read_metrics
from utils import distributed
from utils.engine import task
from utils.errors import InputError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "clip.pt"
    torch.save(CLIP(SMALL).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    return {name: write_format(name, tmp_path_factory.mktemp(name)) for name in FORMATS}


@pytest.fixture(scope="module")
def command(encoder):
    """The words of a command that trains for an epoch on the folder `root`, with further words."""

    def make(datatype, root, output, *words):
        flags = {
            "do_train": 1, "datatype": datatype, "anno_path": root / "anns", "video_path": root / "videos",
            "output_dir": output, "base_encoder": encoder, "num_hidden_layers": 1, "max_words": 8, "max_frames": 2,
            "epochs": 1, "batch_size": 2, "batch_size_val": 4, "workers": 0, "device": "cpu", "skl": 0,
        }  # fmt: skip
        return [str(word) for name, value in flags.items() for word in (f"--{name}", value)] + list(words)

    return make


@pytest.fixture(scope="module")
def train(formats, command, tmp_path_factory):
    """Trains on a data set, the first time that it is called for it, and returns the output folder."""

    @cache
    def call(datatype):
        folder = tmp_path_factory.mktemp("output")
        assert main(command(datatype, formats[datatype], folder)) == read_metrics(folder)
        return folder

    return call


SELECTS_ON_TEST = {"msrvtt", "activity"}


@pytest.mark.parametrize("datatype", FORMATS)
def test_one_process(train, datatype):
    folder = train(datatype)
    assert (folder / "pytorch_model.bin.0").exists()
    on_test = "selected on the test split, as published" in (folder / "log.txt").read_text()
    assert on_test == (datatype in SELECTS_ON_TEST)


def run_several(commands):
    """Commands one after the other in the processes of one group."""
    device = distributed.start("cpu")
    task.start = lambda *arguments: device
    for words in commands:
        main(words)


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(formats, command, train, tmp_path):
    commands = []
    for datatype, root in formats.items():
        commands.append(command(datatype, root, tmp_path / f"{datatype} trained by two"))
        checkpoint = str(train(datatype) / "pytorch_model.bin.0")
        words = ["--do_train", "0", "--do_eval", "1", "--init_model", checkpoint, "--save_similarity"]
        words += ["--shortlist", "2"] if datatype == "msvd" else []
        commands.append(command(datatype, root, tmp_path / f"{datatype} by two", *words))
        main(command(datatype, root, tmp_path / f"{datatype} by one", *words))
    run_together(tmp_path / "log.txt", 2, run_several, commands)
    for datatype in formats:
        assert (tmp_path / f"{datatype} trained by two" / "metrics.json").exists()
        by_one, by_two = (tmp_path / f"{datatype} by {number}" for number in ("one", "two"))
        one, two = (np.load(output / "similarity.npy") for output in (by_one, by_two))
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
        assert read_metrics(by_two) == read_metrics(by_one)


@pytest.mark.parametrize("variant", ["7k", "full", "1kB"])
def test_splits_of_msrvtt(formats, command, tmp_path, variant):
    main(command("msrvtt", formats["msrvtt"], tmp_path, "--msrvtt_split", variant))
    on_test = "selected on the test split, as published" in (tmp_path / "log.txt").read_text()
    assert on_test == (variant != "full")


def test_post_processed_figures_stand_apart(formats, command, tmp_path, capsys):
    words = ["--do_train", "0", "--do_eval", "1"]
    raw = main(command("msvd", formats["msvd"], tmp_path, *words))
    assert raw["post_processed"] == {}
    torch.manual_seed(0)
    metrics = main(command("msvd", formats["msvd"], tmp_path, *words, "--post_process", "dsl", "qbnorm"))
    assert set(metrics["post_processed"]) == {"dual softmax", "QB-Norm"}
    table = capsys.readouterr().out
    for row in ("text to video, after dual softmax", "video to text, after dual", "text to video, after QB-Norm"):
        assert f"\n{row} " in table


@pytest.fixture
def broken(formats, tmp_path):
    """A copy of MSVD's folder with a training video of four cut short."""
    root = Path(shutil.copytree(formats["msvd"], tmp_path / "data"))
    path = root / "videos" / "two.mp4"
    path.write_bytes(path.read_bytes()[:-50])
    return root


def test_broken_training_video_is_skipped_counted_and_named(broken, command, tmp_path):
    main(command("msvd", broken, tmp_path / "out", "--max_bad_videos", "0.25", "--epochs", "2"))
    (line,) = (tmp_path / "out" / "bad_videos.txt").read_text().splitlines()
    assert line.startswith("two\t") and "is truncated, 50 bytes are missing" in line
    assert (tmp_path / "out" / "log.txt").read_text().count("broken video 1 of 1 allowed is skipped") == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_videos_stop_the_run(broken, command, tmp_path, workers):
    with pytest.raises(InputError, match=r"bad_videos.txt: 1 broken videos, 0 allowed; .*truncated, 50 bytes"):
        main(command("msvd", broken, tmp_path / "out", "--workers", str(workers)))


def test_listed_videos_are_left_out(broken, command, tmp_path):
    (tmp_path / "skip_list.txt").write_text("two\n")
    main(command("msvd", broken, tmp_path / "out", "--skip_list", str(tmp_path / "skip_list.txt")))
    assert "1 of the 4 videos of train are left out" in (tmp_path / "out" / "log.txt").read_text()
    assert not (tmp_path / "out" / "bad_videos.txt").exists()


def test_kept_frames_give_the_same_metrics(formats, command, tmp_path):
    words = ["--do_train", "0", "--do_eval", "1", "--seed", "7", "--workers", "1"]
    kept = ["--frame_cache", str(tmp_path / "kept"), "--frame_cache_gb", "1", "--frame_cache_form"]
    similarities = []
    for form in (None, "lossless", "lossless", "compact"):
        output = tmp_path / str(len(similarities))
        main(command("csv", formats["csv"], output, *words, "--save_similarity", *([*kept, form] if form else [])))
        similarities.append(np.load(output / "similarity.npy"))
    decoded, cold, warm, compact = similarities
    assert np.array_equal(decoded, cold) and np.array_equal(decoded, warm)
    assert not np.array_equal(decoded, compact) and np.abs(decoded - compact).max() < 0.05
    assert len(list((tmp_path / "kept").glob("*/*.safetensors"))) == 6
