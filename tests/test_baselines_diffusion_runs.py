"""DiCoSA and DiffusionRet through main_retrieval, load_model and two processes."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import main_retrieval
from models import CLIP, METHODS, Tokens, load_model
from tests.baseline_case_diffusion import filled, keys
from tests.conftest import SMALL
from tests.processes import run_together
from tests.retrieval_case import build_corpus
from utils import distributed
from utils.checkpoint import read_weights, released_state, save_weights
from utils.engine.average import WeightAverage
from utils.engine.builders import build_optimizer
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer
from utils.errors import InputError

SIZES = ["--max_words", "16", "--max_frames", "4", "--batch_size", "10", "--batch_size_val", "8", "--workers", "0"]
SMALL_DIFFUSION = ["--diffusion_steps", "4", "--num", "3", "--t2v_num", "3", "--v2t_num", "1000"]
FILES = {
    "dicosa": ("dicosa", ""),
    "dicosa center4": ("dicosa", "center4"),
    "dicosa center16": ("dicosa", "center16"),
    "dicosa seqLSTM": ("dicosa", "seqLSTM"),
    "dicosa None": ("dicosa", "None"),
    "diffusionret discrimination": ("diffret", ""),
    "diffusionret generation": ("diffret", "generation"),
}


@pytest.mark.parametrize("name", FILES)
def test_released_files_load_strictly_and_save_the_same_keys(name, tmp_path):
    method, change = FILES[name]
    expected = filled(method, change)
    save_weights(expected, tmp_path / "weights.bin")
    model = load_model(tmp_path / "weights.bin")
    assert type(model) is METHODS[name.split()[0]]
    saved = released_state(model)
    assert {key: list(x.shape) for key, x in saved.items()} == keys(method, change)
    assert all(torch.equal(saved[key], x) for key, x in expected.items())
    del expected["clip.ln_final.weight"]
    save_weights(expected, tmp_path / "weights.bin")
    with pytest.raises(InputError):
        load_model(tmp_path / "weights.bin")


def test_a_file_of_another_method_is_named(tmp_path):
    save_weights(filled("dicosa"), tmp_path / "weights.bin")
    with pytest.raises(InputError, match=r"weights of the method dicosa \(center \d+\), not of diffusionret"):
        load_model(tmp_path / "weights.bin", method="diffusionret")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=8, test=8)


@pytest.fixture(scope="module")
def launch(corpus, tmp_path_factory):
    """Calls main with words of the command line added to the paths; returns the metrics and the folder written."""

    def call(*words):
        folder = tmp_path_factory.mktemp("output")
        paths = ["--anno_path", corpus.annotations, "--video_path", corpus.videos, "--output_dir", folder]
        return main_retrieval.main([*map(str, paths), *SIZES, *map(str, words)]), folder

    return call


@pytest.fixture(scope="module")
def train(corpus, launch):
    return partial(launch, "--do_train", "1", "--epochs", "1", "--augment", "none", "--base_encoder", corpus.clip)


def test_dicosa_trains_and_evaluates_after_qb_norm(train, launch):
    words = ("--method", "dicosa", "--center", "4")
    metrics, folder = train(*words)
    again, _ = launch("--do_eval", "1", "--init_model", folder / "pytorch_model.bin.best.0", *words)
    assert again == metrics and {"t2v", "v2t", "plain"} <= metrics.keys()
    plain, _ = launch("--do_eval", "1", "--init_model", folder / "pytorch_model.bin.best.0", *words, "--qbnorm", "0")
    assert "plain" not in plain and plain["t2v"] == metrics["plain"]["t2v"]
    evaluation = ("--do_eval", "1", "--init_model", folder / "pytorch_model.bin.best.0", *words, "--shortlist", "8")
    with pytest.raises(InputError, match="--shortlist: QB-Norm of dicosa needs all similarities; give --qbnorm 0"):
        launch(*evaluation)
    assert launch(*evaluation, "--qbnorm", "0")[0]["t2v"] == plain["t2v"]  # of all 8 clips


@pytest.fixture(scope="module")
def discriminative(train):
    metrics, folder = train("--method", "diffusionret", "--stage", "discrimination")
    assert "plain" not in metrics
    return folder / "pytorch_model.bin.best.0"


def test_diffusionret_trains_both_stages_and_evaluates_what_the_checkpoint_is_of(discriminative, train, launch):
    words = ("--method", "diffusionret", *SMALL_DIFFUSION)
    metrics, folder = train("--init_model", discriminative, *words)
    best = folder / "pytorch_model.bin.best.0"
    before, after = read_weights(discriminative), read_weights(best)
    changed = {name for name, x in after.items() if name not in before or not torch.equal(x, before[name])}
    assert changed and all(name.startswith("diffusion_model") for name in changed)
    again, evaluated = launch("--do_eval", "1", "--init_model", best, *words)
    assert again == metrics and metrics["plain"] != {key: metrics[key] for key in ("t2v", "v2t")}
    untrained = "the denoisers start at random: the checkpoint is of the discriminative stage"
    assert [untrained in (path / "log.txt").read_text() for path in (folder, evaluated)] == [True, False]
    for log in (folder / "log.txt", evaluated / "log.txt"):
        assert log.read_text().count("--v2t_num 1000: there are") == 1
        assert "--t2v_num 3: there are" not in log.read_text()
    first, _ = launch("--do_eval", "1", "--init_model", discriminative, *words)
    assert first["t2v"] == metrics["plain"]["t2v"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--do_train 1 --method diffusionret", "--stage generation starts from a trained discriminative stage"),
        ("--do_train 1 --method diffusionret --init_model x --num 10", "--num 10: a batch of 10 pairs has 9 negatives"),
    ],
)
def test_impossible_runs_end_in_one_line(launch, words, reason):
    with pytest.raises(InputError, match=reason) as error:
        launch(*words.split())
    assert "\n" not in str(error.value)


def test_a_linear_schedule_of_few_steps_is_refused(discriminative):
    with pytest.raises(InputError, match="--diffusion_steps 10: the linear --noise_schedule needs 20 or more"):
        load_model(discriminative, stage="generation", noise_schedule="linear", diffusion_steps=10)


def small(method, **options):
    torch.manual_seed(0)
    model = METHODS[method](CLIP(SMALL), temporal_layers=1, recipe="corrected", **options)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return model.eval()


CASES = {
    "dicosa": {"center": 4},
    "discrimination": {"stage": "discrimination"},
    "generation": {"stage": "generation", "num": 3, "diffusion_steps": 5, "t2v_num": 3, "v2t_num": 2},
}


def outcome(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Gradients of a batch of 8 pairs, averaged over the processes, and the scores of both directions."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 49000, (8, 6), generator=draw)
    ids[:, -1] = 49407
    frames, mask = torch.randn(8, 3, 3, 32, 32, generator=draw), torch.ones(8, 3, dtype=torch.long)
    mask[::3, 2] = 0
    batch = ids, torch.ones_like(ids), frames, mask, torch.tensor([0, 1, 2, 3, 3, 5, 6, 7])
    found = {}
    for case, options in CASES.items():
        model = small("dicosa" if case == "dicosa" else "diffusionret", **options)
        torch.manual_seed(2)
        model(*(x.chunk(world)[rank] for x in batch))["loss"].backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                if world > 1:
                    torch.distributed.all_reduce(parameter.grad)
                found[f"{case}.{name}"] = parameter.grad / world
        with torch.no_grad():
            text = Tokens(model.text_tokens(*batch[:2]), batch[1])
            video = Tokens(model.frame_tokens(frames, mask), mask)
            own = Tokens(*(x.chunk(world)[rank] for x in text))
            sim = main_retrieval.gather_shards(model.similarity(own, video))
            found |= dict(zip((f"{case}.t2v", f"{case}.v2t"), model.rerank(sim, own, video), strict=True))
    return found


def save_outcome(file: Path) -> None:
    distributed.start("cpu")
    found = outcome(distributed.rank(), distributed.world_size())
    if distributed.is_main():
        torch.save(found, file)


def test_two_processes_give_the_scores_and_gradients_of_one(tmp_path):
    file = tmp_path / "found.pt"
    run_together(tmp_path / "log.txt", 2, save_outcome, file)
    together, alone = torch.load(file, weights_only=True), outcome(0, 1)
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        # The bias of a softmax has a gradient of rounding alone, which follows the size of its layer's weight.
        layer = alone.get(name.removesuffix("bias") + "weight", expected)
        atol = max(2e-5 * expected.abs().max().item(), 1e-6 * layer.abs().max().item(), 1e-7)
        assert torch.allclose(together[name], expected, rtol=1e-3, atol=atol), name


def test_the_average_of_the_weights_is_applied_and_taken_off():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], 0.9)
    weight.data += 1.0
    average.update()
    np.testing.assert_allclose(average.values[0], [1.1], rtol=1e-6)
    with average.applied():
        np.testing.assert_allclose(weight.item(), 1.1, rtol=1e-6)
    assert weight.item() == 2.0


def test_the_average_is_part_of_the_training_state():
    def trainer(seed):
        torch.manual_seed(seed)
        model = small("diffusionret", stage="discrimination")
        optimizer = build_optimizer(model, TrainingOptions(), total_steps=10)
        return Trainer(model, optimizer, device=torch.device("cpu"), options=TrainingOptions())

    first, second = trainer(0), trainer(1)
    for value in first.average.values:
        value += 1
    second.load_state(first.state())
    assert all(map(torch.equal, first.average.values, second.average.values))
    assert not any(map(torch.equal, second.average.values, second.average.parameters))
