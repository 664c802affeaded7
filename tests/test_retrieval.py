"""main_retrieval.main from end to end, in this process, on a corpus of a few videos."""

from functools import partial

import numpy as np
import pytest
import torch

import main_retrieval
from dataloaders import build_split
from scripts.search import main as search
from scripts.searching.query import VideoIndex
from tests.retrieval_case import Outcome, build_corpus, read_metrics
from tests.test_args import LEVEL_DEFAULTS, RETRIEVAL_DEFAULTS
from utils.checkpoint import read_weights
from utils.engine.optim import BertAdam
from utils.files import MARKER
from utils.metrics import rank_statistics, retrieval_metrics, text_to_video_ranks

SIZES = ["--max_words", "16", "--max_frames", "4", "--batch_size", "10", "--batch_size_val", "4", "--workers", "0"]
EVERY = {"loss", "score", "learning_rate", "gradient_norm", "samples_per_second"}
EVERY |= {f"{side}.{name}" for side in ("t2v", "v2t") for name in ("R1", "R5", "R10")}
RANDOM_TEACHER = "the teacher of the Banzhaf loss is random"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=8, test=8)


@pytest.fixture(scope="session")
def launch(corpus, tmp_path_factory):
    """Calls main with words of the command line added to the paths and the small sizes."""

    def call(*words: str) -> Outcome:
        folder = tmp_path_factory.mktemp("output")
        paths = ["--anno_path", corpus.annotations, "--video_path", corpus.videos, "--output_dir", folder]
        return Outcome(folder, main_retrieval.main([*map(str, paths), *SIZES, *map(str, words)]))

    return call


@pytest.fixture(scope="session")
def train(corpus, launch):
    """Calls main to train one epoch of four steps, on frames as they are."""
    return lambda *words: launch(
        "--do_train", "1", "--epochs", "1", "--base_encoder", corpus.clip, "--augment", "none", *words
    )


@pytest.fixture(scope="session")
def trained(train):
    return train()


@pytest.fixture(scope="session")
def evaluate(launch):
    """Calls main to evaluate a checkpoint."""
    return lambda checkpoint, *words: launch(
        "--do_eval", "1", "--init_model", checkpoint, "--save_similarity", *words
    )


@pytest.fixture(scope="session")
def evaluated(trained, evaluate):
    return evaluate(trained.folder / "pytorch_model.bin.best.0")


def similarity(outcome):
    return np.load(outcome.folder / "similarity.npy")


def test_training_writes_checkpoints_log_metrics_and_scalars(trained):
    names = {path.name for path in trained.folder.iterdir()} - {MARKER}
    written = {"pytorch_model.bin.0", "pytorch_model.bin.best.0", "config.json", "log.txt", "metrics.json"}
    assert names == {*written, "predictions.jsonl", "ranks.npz", "tensorboard"}
    with np.load(trained.folder / "ranks.npz") as ranks:
        assert {*ranks} >= {"t2v", "v2t", "t2v action", "t2v event"}
        for side in ("t2v", "v2t"):
            assert rank_statistics(torch.from_numpy(ranks[side])) == trained.metrics[side]
        for name, metrics in trained.metrics["subsets"].items():
            assert rank_statistics(torch.from_numpy(ranks[f"t2v {name}"])) == metrics
    assert "epoch 1, step 4 of 4: loss" in trained.log and "precision fp32; float32 products" in trained.log
    assert read_metrics(trained.folder) == trained.metrics
    assert trained.scalars("learning_rate")[0][1] == pytest.approx(1e-4 * 0.5 * (1 + np.cos(np.pi * 3 / 20)), rel=1e-5)
    assert trained.scalars("gradient_norm")[0][1] > 0 and trained.scalars("samples_per_second")[0][1] > 0
    for side in ("t2v", "v2t"):
        for name in ("R1", "R5", "R10"):
            assert trained.scalars(f"{side}.{name}") == [(4, pytest.approx(trained.metrics[side][name]))]
    of_levels = ("ce_t2v", "ce_v2t", "kl_banzhaf", "kl_banzhaf_reversed")
    assert trained.terms == EVERY | {
        *(f"{level}.{term}" for level in ("entity", "action", "event") for term in of_levels),
        *(f"kl_{side}_{level}_entity" for side in ("t2v", "v2t") for level in ("action", "event")),
    }
    assert trained.scalars("score") == [(4, pytest.approx(trained.metrics["t2v"]["R1"]))]


def test_training_moves_what_it_should(trained, corpus):
    start, end = read_weights(corpus.clip), trained.weights
    moved = {name for name, tensor in start.items() if not torch.equal(tensor, end[f"clip.{name}"])}
    assert "text_projection" in moved and "visual.proj" in moved and "visual.conv1.weight" not in moved


def test_a_checkpoint_evaluates_to_the_metrics_of_its_training(trained, evaluated, corpus):
    assert evaluated.metrics == trained.metrics
    assert not list(evaluated.folder.glob("pytorch_model*"))
    sim = similarity(evaluated)
    assert sim.shape == (8, 8) and sim.dtype == np.float32
    split = build_split("msrvtt", corpus.annotations, "test")
    metrics = retrieval_metrics(torch.from_numpy(sim), torch.tensor(split.clip_of_caption))
    assert {side: evaluated.metrics[side] for side in ("t2v", "v2t")} == metrics
    assert set(evaluated.metrics["subsets"]) == {"action", "event"}


def test_similarity_does_not_depend_on_batches_or_chunks(trained, evaluate, evaluated):
    other = evaluate(
        trained.folder / "pytorch_model.bin.0", "--batch_size_val", "3", "--similarity_memory", "1", "--workers", "1"
    )
    assert np.abs(similarity(other) - similarity(evaluated)).max() < 1e-5


def test_levels_enter_the_evaluation_by_their_rates(trained, evaluate, evaluated):
    mixed = evaluate(trained.folder / "pytorch_model.bin.0", "--rate", "0.4", "0.4", "0.2")
    assert np.abs(similarity(mixed) - similarity(evaluated)).max() > 1e-3


def test_a_shortlist_of_all_clips_changes_nothing(trained, evaluate, evaluated):
    outcome = evaluate(trained.folder / "pytorch_model.bin.0", "--shortlist", "8")
    assert np.abs(similarity(outcome) - similarity(evaluated)).max() < 1e-5
    assert outcome.metrics == evaluated.metrics | {
        "shortlist": {"clips": 8, "true": 100.0, "best": 100.0, "checked": 8}
    }


def test_clips_outside_of_the_shortlist_rank_behind_it(trained, evaluate, evaluated, corpus, monkeypatch, capsys):
    monkeypatch.setattr(main_retrieval, "CHECKED", 4)
    outcome = evaluate(trained.folder / "pytorch_model.bin.0", "--shortlist", "3")
    sim, whole = (torch.from_numpy(similarity(each)) for each in (outcome, evaluated))
    inside = sim > -1
    assert inside.sum(dim=1).eq(3).all() and torch.allclose(sim[inside], whole[inside], atol=1e-5)
    own = torch.tensor(build_split("msrvtt", corpus.annotations, "test").clip_of_caption)
    true = inside.gather(1, own[:, None]).double().mean().item() * 100
    best = inside[::2].gather(1, whole[::2].argmax(dim=1, keepdim=True)).double().mean().item() * 100
    assert outcome.metrics["shortlist"] == {"clips": 3, "true": true, "best": best, "checked": 4}
    assert text_to_video_ranks(sim, own)[~inside.gather(1, own[:, None])[:, 0]].ge(3).all()
    assert f"inside for {true:.1f} % of the captions" in capsys.readouterr().out


def test_one_level_alone(train):
    outcome = train("--num_levels", "1", "--skl", "0", "--kl", "0")
    assert outcome.terms == EVERY | {"entity.ce_t2v", "entity.ce_v2t"}
    assert RANDOM_TEACHER not in outcome.log


def test_an_untrained_teacher_is_reported(trained, train, corpus):
    assert RANDOM_TEACHER in trained.log
    outcome = train("--estimator", corpus.estimator)
    assert RANDOM_TEACHER not in outcome.log
    for name, tensor in read_weights(corpus.estimator).items():
        assert torch.equal(outcome.weights[f"banzhafteacher.{name}"], tensor)


def test_exact_teacher(trained, train):
    outcome = train("--teacher", "exact", "--max_frames", "12")
    assert RANDOM_TEACHER not in outcome.log
    (_, exact), (_, random) = outcome.scalars("entity.kl_banzhaf")[0], trained.scalars("entity.kl_banzhaf")[0]
    assert np.isfinite(exact) and exact != pytest.approx(random)


@pytest.mark.parametrize(
    ("words", "present", "absent"),
    [
        (["--agg_module", "seqLSTM"], "lstm_visual.", "transformerClip."),
        (["--agg_module", "None"], "clip.", "frame_position_embeddings."),
        (["--num_hidden_layers", "1"], "transformerClip.resblocks.0.", "transformerClip.resblocks.1."),
        (["--interaction", "mean"], "transformerClip.", "text_weight_fc."),
    ],
)
def test_other_models_are_found_again_in_their_checkpoints(words, present, absent, train, evaluate):
    outcome = train(*words)
    keys = list(outcome.weights)
    assert any(key.startswith(present) for key in keys) and not any(key.startswith(absent) for key in keys)
    again = words if "--interaction" in words else []
    assert evaluate(outcome.folder / "pytorch_model.bin.best.0", *again).metrics == outcome.metrics


def test_checkpointed_training_gives_the_same_weights(trained, train):
    weights = train("--grad_checkpointing").weights
    for name, tensor in trained.weights.items():
        assert torch.allclose(weights[name], tensor, atol=1e-6), name


def test_compiled_towers_train_the_same_model(trained, train, monkeypatch):
    """Traced as for compiling, then run as it is: compiling itself takes a minute and a C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    weights = train("--compile").weights
    assert weights.keys() == trained.weights.keys()
    for name, tensor in trained.weights.items():
        assert torch.allclose(weights[name], tensor, atol=1e-5), name


def test_half_precision_is_close(trained, train, evaluate, evaluated):
    assert train("--precision", "bf16").scalars("loss")[0][1] == pytest.approx(trained.scalars("loss")[0][1], rel=0.05)
    half = similarity(evaluate(trained.folder / "pytorch_model.bin.0", "--precision", "bf16"))
    assert 0 < np.abs(half - similarity(evaluated)).max() < 0.05


@pytest.fixture
def optimizer(monkeypatch):
    """The numbers of steps that optimisers were built for, and one entry for each step taken."""
    seen = {"horizon": [], "steps": []}
    build, step = BertAdam.__init__, BertAdam.step

    def build_and_note(self, *arguments, **options):
        seen["horizon"].append(options["total_steps"])
        build(self, *arguments, **options)

    def step_and_note(self, *arguments, **options):
        seen["steps"].append(self)
        return step(self, *arguments, **options)

    monkeypatch.setattr(BertAdam, "__init__", build_and_note)
    monkeypatch.setattr(BertAdam, "step", step_and_note)
    return seen


@pytest.mark.parametrize(
    ("words", "horizon", "steps"),
    [
        (["--recipe", "corrected"], 4, 4),
        (["--recipe", "corrected", "--epochs", "2"], 8, 8),
        (["--recipe", "released", "--gradient_accumulation_steps", "3"], 5 * 2, 2),
    ],
)
def test_steps_and_the_schedule_they_follow(words, horizon, steps, train, optimizer):
    train(*words)
    assert (optimizer["horizon"], len(optimizer["steps"])) == ([horizon], steps)


def test_evaluation_every_three_displays_and_after_each_epoch(train):
    outcome = train("--n_display", "1")
    logged = [line for line in outcome.log.splitlines() if "step" in line or "R@1" in line]
    lines = ["step" if "step" in line else "evaluated" for line in logged]
    assert lines == ["step"] * 3 + ["evaluated", "step", "evaluated", "evaluated"]


def test_augmented_frames_train_another_model(trained, train):
    weights = train("--augment", "rand-m7-n4-mstd0.5-inc1").weights
    assert not torch.equal(weights["clip.visual.proj"], trained.weights["clip.visual.proj"])


def test_activitynet_runs_through(corpus, train):
    folder = corpus.folder / "ActivityNet"
    words = ["--datatype", "activity", "--anno_path", folder, "--video_path", folder / "Activity_Videos"]
    outcome = train(*words, "--batch_size", "4")
    assert "step 2 of 2" in outcome.log and outcome.metrics["subsets"] == {}


def test_every_published_flag_at_once(corpus, evaluated, trained, launch):
    """All with their defaults, but the paths, the sizes and what has no default."""
    small = dict(zip(SIZES[::2], SIZES[1::2], strict=True))
    given = {
        "do_eval": 1, "device": "cpu", "init_model": trained.folder / "pytorch_model.bin.0",
        "estimator": corpus.estimator, "base_encoder": corpus.clip,
    }
    flags = {f"--{name}": value for name, value in (RETRIEVAL_DEFAULTS | LEVEL_DEFAULTS | given).items()} | small
    words = [word for flag, value in flags.items() for word in (flag, *(value if isinstance(value, list) else [value]))]
    outcome = launch(*words, "--world_size", "1", "--distributed")
    assert outcome.metrics == evaluated.metrics
    assert outcome.log.count("accepted, without effect: --world_size --distributed") == 1


def test_a_search_finds_first_what_the_evaluation_ranks_first(corpus, trained, evaluated, tmp_path):
    clips = build_split("msrvtt", corpus.annotations, "test").clips
    folder, index = tmp_path / "videos", tmp_path / "index"
    folder.mkdir()
    for clip in clips:
        (folder / f"{clip.video_id}.mp4").symlink_to(corpus.videos / f"{clip.video_id}.mp4")
    checkpoint = trained.folder / "pytorch_model.bin.best.0"
    sizes = ["--max_words", "16", "--max_frames", "4", "--workers", "0"]
    search(list(map(str, ["index", folder, "--checkpoint", checkpoint, "--index", index, "--device", "cpu", *sizes])))
    opened = VideoIndex(index)
    captions = build_split("msrvtt", corpus.annotations, "test").captions
    for caption, row in zip(captions, similarity(evaluated), strict=True):
        (hit,) = opened.search(caption, top=1, shortlist=6)
        best = f"{clips[row.argmax()].video_id}.mp4"
        assert (hit.file, hit.similarity) == (best, pytest.approx(row.max(), abs=1e-3))  # the index has float16 tokens
