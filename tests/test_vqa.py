"""main_vqa.main from end to end on the built-in questions, the Python API, and the published commands."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

import main_vqa
from models import CLIP, HBIVQA, CLIPConfig, load_model
from models.recipe import CORRECTED
from tests.conftest import SMALL
from tests.retrieval_case import Outcome, build_corpus, read_metrics, run_launcher
from tests.test_hbi import on_fake_cuda
from utils.checkpoint import read_weights
from utils.engine.optim import BertAdam
from utils.errors import InputError
from utils.files import MARKER

ROOT = Path(__file__).parents[1]
SIZES = ["--max_words", "16", "--max_frames", "4", "--batch_size", "24", "--num_thread_reader", "0"]
EVERY = {"loss", "score", "learning_rate", "gradient_norm", "samples_per_second"}
LEVEL_TERMS = {"ce_t2v", "ce_v2t", "kl_banzhaf", "kl_banzhaf_reversed", "answer_ce"}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("questions"), train=8, test=8)


@pytest.fixture(scope="session")
def launch(corpus, tmp_path_factory):
    """Calls main with words of the command line added to the files and the small sizes."""

    def call(*words, **files) -> Outcome:
        folder, qa = tmp_path_factory.mktemp("output"), corpus.folder / "qa"
        files = {
            "train_csv": qa / "train.jsonl",
            "val_csv": qa / "test.jsonl",
            "data_path": qa / "train_ans2label.json",
            "features_path": corpus.videos,
            "output_dir": folder,
        } | files
        named = [str(word) for name, path in files.items() if path for word in (f"--{name}", path)]
        return Outcome(folder, main_vqa.main([*named, *SIZES, *map(str, words)]))

    return call


@pytest.fixture(scope="session")
def train(corpus, launch):
    return lambda *words, **files: launch("--do_train", "--base_encoder", corpus.clip, *words, "--epochs", "1", **files)


@pytest.fixture(scope="session")
def trained(train):
    return train("--loose_type", "--linear_patch", "2d", "--save_every", "1")


def test_training_writes_checkpoints_answers_and_metrics(trained, corpus):
    names = {path.name for path in trained.folder.iterdir()} - {MARKER}
    assert {"pytorch_model.bin.0", "pytorch_model.bin.best.0", "log.txt", "metrics.json", "predictions.jsonl"} <= names
    assert "accepted, without effect: --loose_type --linear_patch" in trained.log
    assert read_metrics(trained.folder) == trained.metrics
    coarser = {f"kl_answer_{level}_entity" for level in ("action", "event")}
    levels = {f"{level}.{term}" for level in ("entity", "action", "event") for term in LEVEL_TERMS}
    assert trained.terms == EVERY | coarser | levels


def test_predictions_agree_with_the_questions_and_the_metrics(trained, corpus):
    questions = [json.loads(line) for line in (corpus.folder / "qa" / "test.jsonl").read_text().splitlines()]
    predictions, total = trained.predictions, trained.metrics["total"]["all"]
    assert [(p["question"], p["video_id"], p["truth"]) for p in predictions] == [
        (row["question"], row["video_id"], row["answer"]) for row in questions
    ]
    for prediction in predictions:
        shares = [share for _, share in prediction["top5"]]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.0001
    right = [prediction["truth"] == prediction["top5"][0][0] for prediction in predictions]
    assert total["top1"] == pytest.approx(100 * sum(right) / len(questions))
    assert {kind for kind in trained.metrics if kind != "total"} == {row["answer_type"] for row in questions}


def test_training_goes_on_from_a_saved_state(trained, train):
    last_but_one, _ = sorted((trained.folder / "training_state").iterdir(), key=lambda path: int(path.name[5:]))
    resumed = train("--resume", last_but_one)
    ours, theirs = (read_weights(outcome.folder / "pytorch_model.bin.0") for outcome in (resumed, trained))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert resumed.metrics == trained.metrics


def test_a_checkpoint_gives_the_answers_of_its_training(trained, launch):
    best = trained.folder / "pytorch_model.bin.best.0"
    again = launch("--do_eval", "--init_model", best, "--batch_size_val", "7", "--num_thread_reader", "1")
    assert again.metrics == trained.metrics
    assert [p["top5"][0][0] for p in again.predictions] == [p["top5"][0][0] for p in trained.predictions]


def test_the_entity_level_alone(train):
    outcome = train("--num_levels", "1", "--rate", "1", "0", "0", "--skl", "0", "--n_display", "1")
    assert outcome.terms == EVERY | {"entity.ce_t2v", "entity.ce_v2t", "entity.answer_ce"}


def test_the_schedule_lasts_the_requested_epochs(launch, corpus, monkeypatch):
    given = []

    def spy(self, *arguments, **options):
        given.append(options["total_steps"])
        raise InputError("enough")

    monkeypatch.setattr(BertAdam, "__init__", spy)
    questions = len((corpus.folder / "qa" / "train.jsonl").read_text().splitlines())
    for recipe in ("released", "corrected"):
        with pytest.raises(InputError, match="enough"):
            launch("--do_train", "--base_encoder", corpus.clip, "--epochs", "7", "--recipe", recipe)
    assert given == [questions // 24 * 7] * 2


def test_answers_outside_the_vocabulary_are_counted(train, launch, corpus, tmp_path):
    answers = sorted(json.loads((corpus.folder / "qa" / "train_ans2label.json").read_text()))[3:]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({answer: label for label, answer in enumerate(answers)}))
    outcome = train("--recipe", "corrected", data_path=path)
    total = outcome.metrics["total"]
    truths = [prediction["truth"] for prediction in outcome.predictions]
    assert total["all"]["questions"] == len(truths)
    assert total["answerable"]["questions"] == sum(truth in answers for truth in truths) < len(truths)
    assert "questions are left out, their answer is not in the vocabulary" in outcome.log
    path.write_text('{"nothing": 0}')
    with pytest.raises(InputError, match=r"train\.jsonl: no answer is in .*answers\.json"):
        train(data_path=path)


def test_a_vocabulary_is_made_of_the_training_answers(train):
    outcome = train(data_path=None)
    answers = json.loads((outcome.folder / "train_ans2label.json").read_text())
    model = load_model(outcome.folder / "pytorch_model.bin.0", answers=outcome.folder / "train_ans2label.json")
    assert list(model.answers) == list(answers)


def test_a_vocabulary_of_another_size_than_the_classifier(trained, launch, tmp_path):
    path = tmp_path / "answers.json"
    path.write_text('{"yes": 0, "no": 1}')
    with pytest.raises(InputError, match=r"answers\.json: has 2 answers, but the classifier of .*bin\.0 has \d+"):
        launch("--do_eval", "--init_model", trained.folder / "pytorch_model.bin.0", data_path=path)


def test_questions_without_a_video(trained, launch, tmp_path, capsys):
    row = {"question": "what is it?", "answer": "circle", "video_id": "video0", "answer_type": "what"}
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row | {"video_id": name}) + "\n" for name in ("video0", "absent", "video0")))
    words = "--do_eval", "--init_model", trained.folder / "pytorch_model.bin.0"
    with pytest.raises(InputError, match="1 of 2 videos are missing: absent"):
        launch(*words, val_csv=path)
    assert len(launch(*words, "--skip_missing_videos", val_csv=path).predictions) == 2


def test_impossible_command_lines(launch, capsys):
    for words, reason in (
        (["--do_train", "--num_levels", "1"], "--rate: gives weight to levels that --num_levels leaves untrained"),
        (["--do_eval"], "argument --train_csv: needed"),
    ):
        with pytest.raises(SystemExit):
            launch(*words, train_csv=None, data_path=None)
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--max_words", "--max_frames"])
def test_more_words_or_frames_than_positions(flag, trained, launch, tmp_path):
    with pytest.raises(InputError, match=f"{flag} 78: the model has 77 positions"):
        launch("--do_eval", "--init_model", trained.folder / "pytorch_model.bin.0", flag, 78, features_path=tmp_path)


def test_one_question_in_three_lines(trained, corpus):
    model = load_model(trained.folder / "pytorch_model.bin.0", answers=corpus.folder / "qa" / "train_ans2label.json")
    row = trained.predictions[0]
    video = corpus.videos / f"{row['video_id']}.mp4"
    best = model.answer(row["question"], video, max_words=16, max_frames=4)
    assert [answer for answer, _ in best] == [answer for answer, _ in row["top5"]]
    assert [share for _, share in best] == pytest.approx([share for _, share in row["top5"]], abs=1e-5)
    assert len(model.answer(row["question"], video, top=2)) == 2
    with pytest.raises(InputError, match="the question is empty"):
        model.answer(" \n", video)


def test_every_linear_layer_starts_small_and_without_bias():
    torch.manual_seed(0)
    model = HBIVQA(CLIP(SMALL), ["yes", "no"])
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.startswith(("clip.", "temporal.")):
            assert module.bias.abs().max() == 0, name
            assert 0.01 < module.weight.std() < 0.03, name


@pytest.mark.parametrize("recipe", ["released", CORRECTED])
def test_forward_and_loss_on_fake_cuda_with_bf16_autocast(recipe):
    config = CLIPConfig(224, 32, 768, 2, 512, 2, 512)

    def forward(model, ids, text_mask, frames, video_mask):
        where = {"dtype": torch.long, "device": "cuda"}
        videos = torch.zeros(len(video_mask), **where)
        terms = model(ids, text_mask, frames, video_mask, videos, torch.zeros(4, **where), torch.zeros(4, **where))
        text, video = model.text_tokens(ids, text_mask), model.frame_tokens(frames, video_mask)
        logits = model.mixed_logits((text, text_mask), (video, video_mask))
        return terms | {"logits": logits}

    terms = on_fake_cuda(lambda: HBIVQA(CLIP(config), ["yes", "no"], temporal_layers=1, recipe=recipe), forward)
    assert all(value.device.type == "cuda" and value.dtype == torch.float32 for value in terms.values())


COMMON = (
    "--num_thread_reader=8 --train_csv data/MSR-VTT/qa/train.jsonl --val_csv data/MSR-VTT/qa/test.jsonl"
    " --data_path data/MSR-VTT/qa/train_ans2label.json --features_path DATA_PATH/MSRVTT_Videos --max_words 32"
    " --max_frames 12 --batch_size_val 16 --datatype msrvtt --expand_msrvtt_sentences --feature_framerate 1"
    " --freeze_layer_num 0 --slice_framepos 2 --loose_type --linear_patch 2d"
)
TRAINING = (
    f"--do_train --epochs=5 --batch_size=32 --n_display=50 {COMMON} --lr 1e-4 --coef_lr 1e-3"
    " --estimator ESTIMATOR_PATH --kl 2 --skl 1 --output_dir trained"
)
EVALUATION = f"--do_eval {COMMON} --init_model CHECKPOINT_PATH --output_dir"


@pytest.mark.slow
def test_published_commands(corpus, tmp_path):
    """Training with two processes, evaluation with two and with one: the same accuracy."""
    for folder in ("models", "dataloaders", "utils"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pt", "__pycache__"))
    shutil.copy(ROOT / "main_vqa.py", tmp_path)
    shutil.copy(corpus.clip, tmp_path / "models" / "ViT-B-16.pt")
    shutil.copytree(corpus.folder / "qa", tmp_path / "data" / "MSR-VTT" / "qa")
    paths = {
        "DATA_PATH": str(corpus.folder),
        "ESTIMATOR_PATH": str(corpus.estimator),
        "CHECKPOINT_PATH": "trained/pytorch_model.bin.4",
    }

    def start(processes: int, port: int, words: str) -> dict:
        for name, path in paths.items():
            words = words.replace(name, path)
        launcher = f"-m torch.distributed.launch --master_port {port} --nproc_per_node={processes}".split()
        command = [sys.executable, *(launcher if processes > 1 else ()), "main_vqa.py", *words.split()]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        result = run_launcher(command, port, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr[-3000:]
        return read_metrics(tmp_path / command[-1])

    start(2, 2502, TRAINING)
    assert len(list((tmp_path / "trained").glob("pytorch_model.bin.?"))) == 5
    assert start(2, 2503, f"{EVALUATION} of_two") == start(1, 0, f"{EVALUATION} of_one")
