"""banzhaf_estimator.py from end to end, and its labels and losses against numbers of the published code."""

import json
import os
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import banzhaf_estimator
import main_retrieval
from models import HBI, Tokens, load_model
from models.banzhaf import BanzhafModule, GameOptions, sampled_interaction
from models.clip import CLIP
from models.coalitions import Pairs
from models.estimator_training import EstimatorTraining, pair_features
from models.ranked_estimator import RankedEstimator
from models.recipe import RELEASED
from tests.golden_case import GOLDEN, assert_close, filled_state, golden, inputs
from tests.processes import run_together, script
from tests.retrieval_case import Outcome, build_corpus, read_metrics, run_launcher
from utils.checkpoint import load_weights, read_weights, released_state, save_weights
from utils.errors import InputError
from utils.files import MARKER
from utils.metrics import correlation
from utils.plots import scatter

ROOT = Path(__file__).parents[1]
SIZES = ["--max_words", "16", "--max_frames", "4", "--batch_size", "10", "--batch_size_val", "4", "--workers", "0"]
TRAINING = ["--do_train", "1", "--epochs", "2", "--lr", "1e-2", "--augment", "none"]
TINY = "state_dict_keys_tiny.json"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("estimator_shapes"), train=6, test=6)


def command(corpus, folder, *words) -> list[str]:
    paths = ["--anno_path", corpus.annotations, "--video_path", corpus.videos, "--output_dir", folder]
    return [*map(str, [*paths, *SIZES, "--base_encoder", corpus.clip, *words])]


@pytest.fixture(scope="session")
def launch(corpus, tmp_path_factory):
    """Calls main with words of the command line added to the paths and the small sizes."""

    def call(*words: str) -> Outcome:
        folder = tmp_path_factory.mktemp("output")
        return Outcome(folder, banzhaf_estimator.main(command(corpus, folder, *words)))

    return call


@pytest.fixture(scope="session")
def trained(launch):
    return launch(*TRAINING)


def assert_same_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_training_writes_estimators_metrics_and_a_picture(trained):
    best = next(trained.folder.glob("pytorch_model.bin.best.*"))
    names = {path.name for path in trained.folder.iterdir()} - {MARKER}
    epochs = {"pytorch_model.bin.0", "pytorch_model.bin.1"}
    assert names == {*epochs, best.name, "config.json", "log.txt", "metrics.json", "scatter.png", "tensorboard"}
    assert read_metrics(trained.folder) == trained.metrics
    assert (trained.folder / "scatter.png").read_bytes().startswith(b"\x89PNG")
    assert trained.log.count("correlation with the exact interaction") == 3  # each epoch's, and the best one's
    assert "labels: exact interaction of the released game" in trained.log
    assert "all epochs share the features" in trained.log
    assert -1 <= trained.metrics["correlation"] <= 1 and trained.metrics["mse"] > 0


def test_the_network_is_the_one_that_the_command_line_names(launch):
    outcome = launch(*TRAINING, "--network", "ranked")
    assert outcome.weights.keys() == RankedEstimator().state_dict().keys()


def test_files_are_those_of_the_released_estimator(trained, corpus):
    released = json.loads((GOLDEN / "state_dict_keys.json").read_text())["estimator_file"]
    assert {name: list(tensor.shape) for name, tensor in trained.weights.items()} == released
    load_weights(BanzhafModule(), trained.weights, "estimator")
    model = load_model(base_encoder=corpus.clip, estimator=trained.folder / "pytorch_model.bin.1")
    assert_same_weights(model.teacher.state_dict(), trained.weights)


def test_an_estimator_teaches_retrieval(trained, corpus, tmp_path):
    estimator = trained.folder / "pytorch_model.bin.1"
    words = ("--do_train", "1", "--epochs", "1", "--augment", "none", "--estimator", estimator)
    main_retrieval.main(command(corpus, tmp_path, *words))
    weights = read_weights(tmp_path / "pytorch_model.bin.0")
    assert_same_weights({name: weights[f"banzhafteacher.{name}"] for name in trained.weights}, trained.weights)


def test_training_lowers_the_error(trained, launch):
    words = ["--epochs", "12", "--recipe", "corrected", "--game", "released", "--n_display", "1"]
    longer = launch(*TRAINING, *words)
    losses = [float(line.rsplit("loss ", 1)[1]) for line in longer.log.splitlines() if "loss" in line]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert "exact interaction of the released game" in longer.log


@pytest.mark.parametrize("words", [["--game", "standard"], ["--recipe", "corrected"]])
def test_labels_of_the_standard_game(words, launch):
    assert "labels: exact interaction of the standard game" in launch(*TRAINING, *words).log


def test_sampled_labels_are_drawn_from_the_seed(trained, launch):
    words = [*TRAINING, "--labels", "sampled", "--num_samples", "3"]
    sampled = launch(*words, "--save_every", "1", "--keep", "9")
    assert "labels: sampled interaction of the released game" in sampled.log
    for resume in ([], ["--resume", sampled.folder / "training_state" / "step_2"]):
        again = launch(*words, *resume)
        assert all(torch.equal(again.weights[name], tensor) for name, tensor in sampled.weights.items())
    assert not torch.equal(sampled.weights["Q"], trained.weights["Q"])


def test_features_encoded_once_or_in_each_epoch_are_the_same(trained, launch):
    uncached = launch(*TRAINING, "--no_feature_cache")
    assert "share the features" not in uncached.log
    assert_same_weights(uncached.weights, trained.weights)
    assert uncached.metrics == pytest.approx(trained.metrics, rel=1e-4)


@pytest.mark.parametrize("words", [["--agg_module", "None"], ["--interaction", "mean"], ["--precision", "bf16"]])
def test_other_encoders(words, launch):
    assert np.isfinite(launch(*TRAINING, "--epochs", "1", *words).metrics["mse"])


def test_a_checkpoint_s_estimator_is_evaluated_and_trained_further(trained, corpus, launch, tmp_path):
    torch.manual_seed(42)
    model = load_model(base_encoder=corpus.clip, estimator=next(trained.folder.glob("pytorch_model.bin.best.*")))
    save_weights(released_state(model), tmp_path / "checkpoint")
    evaluated = launch("--do_eval", "1", "--init_model", tmp_path / "checkpoint")
    assert evaluated.metrics == pytest.approx(trained.metrics, rel=1e-4)
    assert not list(evaluated.folder.glob("pytorch_model*"))
    further = launch(*TRAINING, "--epochs", "1", "--lr", "0", "--init_model", tmp_path / "checkpoint")
    assert further.metrics == pytest.approx(trained.metrics, rel=1e-4)
    other = launch(*TRAINING, "--network", "ranked", "--init_model", tmp_path / "checkpoint")
    assert other.weights.keys() == RankedEstimator().state_dict().keys()


def test_two_processes_train_the_estimator_of_one(trained, corpus, tmp_path):
    output = tmp_path / "output"
    words = command(corpus, output, *TRAINING)
    run_together(tmp_path / "said.txt", 2, script, banzhaf_estimator.main, *words)
    assert_same_weights(read_weights(output / "pytorch_model.bin.1"), trained.weights)
    assert read_metrics(output) == pytest.approx(trained.metrics, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--do_eval", "1"], "there is no estimator; give the checkpoint that holds one as --init_model"),
        ([*TRAINING, "--lr", "1e30"], "training has diverged"),
        ([*TRAINING, "--batch_size", "4000"], "only 30 training pairs"),
        ([*TRAINING, "--max_frames", "78"], "--max_frames 78: the model has 77 positions"),
        ([*TRAINING, "--max_words", "78"], "--max_words 78: the model has 77 positions"),
        ([*TRAINING, "--max_frames", "1"], "--max_frames 1: an interaction needs two frames or more"),
    ],
)
def test_what_cannot_be_trained_is_said(words, reason, launch):
    with pytest.raises(InputError, match=reason):
        launch(*words)


@cache
def recorded_features():
    """The model of the recorded run, and the features of its batch."""
    state = filled_state(TINY)
    clip = CLIP.from_state_dict({name[5:]: x for name, x in state.items() if name.startswith("clip.")})
    model = HBI(clip, recipe=replace(RELEASED, cluster_noise=0.0)).eval()
    load_weights(model, state, TINY)
    ids, text_mask, frames, video_mask = inputs("e1", words=10, frames=6)
    with torch.no_grad():
        text, video = model.text_tokens(ids, text_mask), model.frame_tokens(frames, video_mask)
    return model, pair_features(model, Tokens(text, text_mask), Tokens(video, video_mask), "released")


def test_features_and_gradients_of_the_recorded_run():
    case = golden("estimator_e1")
    model, features = recorded_features()
    for ours, recorded in (("token_sim", "logits"), ("text_score", "text_weight"), ("video_score", "video_weight")):
        assert_close(features[ours], case[recorded])
    training = EstimatorTraining(model.requires_grad_(False).teacher)
    training.zero_grad()
    loss = training(**features | {"exact": torch.from_numpy(case["labels"])})["loss"]
    assert loss.item() == pytest.approx(case["loss"].item(), rel=3e-5)
    loss.backward()
    ours = {f"banzhafteacher.{name}": parameter.grad for name, parameter in model.teacher.named_parameters()}
    for name, reached, norm in zip(case["param_names"], case["has_grad"], case["grad_norm"], strict=True):
        gradient = ours.get(str(name))
        assert (gradient is not None) == reached, name
        assert not reached or gradient.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name


def test_a_step_on_a_gpu_takes_few_chunks_and_no_sync():
    """Fake tensors have no values: reading one, as a host-device sync does, is an error."""
    count = ChunkCount()
    with FakeTensorMode(), torch.no_grad(), torch.device("cuda"):
        training = EstimatorTraining(BanzhafModule(), num_samples=100, game="released")
        masks = torch.ones(128, 24), torch.ones(128, 12)
        pairs = Pairs(torch.ones(128, 24, 12), *masks, *(mask.softmax(1) for mask in masks))
        with count:
            assert training(torch.ones(128, 24, 12), **pairs._asdict())["loss"].is_cuda
        assert 1 < count.chunks <= 20
        with pytest.raises(DataDependentOutputException):
            sampled_interaction(*pairs)
    with FakeTensorMode(), ChunkCount() as on_cpu:
        masks = torch.ones(128, 24), torch.ones(128, 12)
        players = torch.ones(128, 24, 12), *masks, *(mask.softmax(1) for mask in masks)
        sampled_interaction(*players, num=10, options=GameOptions(check=False))
    assert on_cpu.chunks > 20


def test_sampled_labels_of_training_are_scaled_as_the_exact_ones():
    """The loss against an estimator that predicts nothing is the mean square of the labels."""
    _, features = recorded_features()
    estimator = BanzhafModule()
    estimator.cnn2.requires_grad_(False).weight.fill_(0)
    estimator.cnn2.bias.fill_(0)
    draws = torch.Generator().manual_seed(0)
    losses = [
        EstimatorTraining(estimator, num_samples=num, generator=draws)(**features)["loss"].item()
        for num in (None, 2000)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_labels_are_drawn_from_the_generator():
    _, features = recorded_features()
    estimator = BanzhafModule()
    first, again, other = (
        EstimatorTraining(estimator, num_samples=2, generator=torch.Generator().manual_seed(seed))(**features)["loss"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_batch_normalisation_is_not_trained():
    training = EstimatorTraining(BanzhafModule().requires_grad_(False))
    trained = {name for name, parameter in training.teacher.named_parameters() if parameter.requires_grad}
    normalised = {
        f"{name}.{kind}"
        for name, module in training.teacher.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }  # fmt: skip
    assert normalised and trained == {*dict(training.teacher.named_parameters())} - normalised


class ChunkCount(TorchDispatchMode):
    """Counts the chunks in which samples are added up."""

    chunks = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.chunks += func is torch.ops.aten.index_add_.default
        return func(*args, **(kwargs or {}))


def test_exact_labels_are_what_the_sampled_ones_average():
    _, features = recorded_features()
    players = [features[name] for name in ("text_mask", "video_mask", "text_score", "video_score")]
    seeded = GameOptions(generator=torch.Generator().manual_seed(0))
    sampled = sampled_interaction(1000 * features["token_sim"], *players, num=2000, options=seeded)
    assert (sampled - features["exact"]).square().mean().sqrt() < 0.02 * features["exact"].square().mean().sqrt()


def test_correlation_is_pearson_s():
    x, y = torch.randn(50), torch.randn(50)
    assert correlation(x, x + y) == pytest.approx(np.corrcoef(x, x + y)[0, 1], abs=1e-6)
    assert correlation(x, -3 * x + 1) == pytest.approx(-1) and correlation(x, torch.ones(50)) == 0


def test_a_scatter_picture_of_many_points(tmp_path):
    scatter(tmp_path / "scatter.png", torch.randn(20_001), torch.randn(20_001), labels=("x", "y"))
    assert (tmp_path / "scatter.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_published_command(tmp_path):
    """The command as published, in four processes, in a copy of the tree with weights where it looks for CLIP."""
    tree, output = tmp_path / "tree", tmp_path / "output"
    for folder in ("models", "dataloaders", "utils"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("*.pt", "__pycache__"))
    shutil.copy(ROOT / "banzhaf_estimator.py", tree)
    corpus = build_corpus(tmp_path / "corpus", train=26, test=8)
    shutil.copy(corpus.clip, tree / "models" / "ViT-B-32.pt")
    shutil.copytree(corpus.annotations, tree / "data" / "MSR-VTT" / "anns")
    published = (
        "-m torch.distributed.launch --master_port 2502 --nproc_per_node=4 banzhaf_estimator.py"
        " --do_train 1 --workers 8 --n_display 1 --epochs 10 --lr 1e-2 --coef_lr 1e-3 --batch_size 128"
        " --batch_size_val 128 --anno_path data/MSR-VTT/anns --video_path ${DATA_PATH}/MSRVTT_Videos --datatype msrvtt"
        " --max_words 24 --max_frames 12 --video_framerate 1 --output_dir ${OUTPUT_PATH}"
    )
    words = published.replace("${DATA_PATH}", str(corpus.folder)).replace("${OUTPUT_PATH}", str(output)).split()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = run_launcher([sys.executable, *words], 2502, cwd=tree, env=environment)
    assert result.returncode == 0, result.stderr
    for epoch in range(10):
        load_weights(BanzhafModule(), read_weights(output / f"pytorch_model.bin.{epoch}"), f"epoch {epoch}")
    assert (output / "log.txt").read_text().count("held-out pairs: MSE") == 11
    assert "correlation" in result.stdout and np.isfinite(read_metrics(output)["mse"])
