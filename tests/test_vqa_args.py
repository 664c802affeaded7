"""The command line of main_vqa.py."""

from functools import partial

import pytest

import main_vqa
from models import ANSWER_METHODS, HBIVQA
from utils import args
from utils.args import parse
from utils.errors import InputError
from utils.flags import INEFFECTIVE_FOR_QUESTIONS

question_parser = partial(args.question_parser, ANSWER_METHODS, HBIVQA.add_arguments)

FILES = ["--val_csv", "test.jsonl", "--data_path", "answers.json", "--features_path", "videos", "--output_dir", "out"]
DEFAULTS = {
    "kl": 0.2, "skl": 1, "rate": [0.4, 0.4, 0.2], "num_hidden_layers": 4, "base_encoder": "ViT-B/16", "estimator": None,
    "warmup_proportion": 0.1, "gradient_accumulation_steps": 1, "max_words": 32, "max_frames": 12, "datatype": "msrvtt",
    "video_framerate": 1, "slice_framepos": 2, "frame_rule": "decord", "augment": "none", "teacher": "estimator",
    "num_levels": 3, "recipe": "released", "lr": 1e-4, "coef_lr": 1e-3,
    "freeze_layer_num": 0,
}  # fmt: skip
PUBLISHED = {
    "--num_thread_reader": ("workers", 3),
    "--features_path": ("video_path", "elsewhere"),
    "--feature_framerate": ("video_framerate", 2),
    "--cross_num_hidden_layers": ("num_hidden_layers", 2),
    "--train_csv": ("train_csv", "train.jsonl"),
}


def test_defaults_are_the_published_ones():
    parsed = vars(parse(question_parser(), ["--do_eval", *FILES]))
    assert {name: parsed[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("flag", PUBLISHED)
def test_published_names_of_flags(flag):
    name, value = PUBLISHED[flag]
    assert getattr(parse(question_parser(), ["--do_eval", *FILES, f"{flag}={value}"]), name) == value


def published(*words):
    return main_vqa.as_published(parse(question_parser(), ["--do_eval", *FILES, *words]))


def test_accumulation_divides_the_batch():
    assert published("--batch_size", "32", "--gradient_accumulation_steps", "5").batch_size == 6
    assert published("--batch_size", "32").batch_size == 32
    with pytest.raises(InputError, match="--gradient_accumulation_steps 9: give 8 or fewer"):
        published("--batch_size", "8", "--gradient_accumulation_steps", "9")


@pytest.mark.parametrize(
    ("recipe", "method", "position"), [("released", "hbi", 2), ("corrected", "hbi", 0), ("released", "emcl", 0)]
)
def test_released_frames_are_evenly_spread(recipe, method, position):
    words = "--slice_framepos", "0", "--recipe", recipe, "--method", method
    assert published(*words).slice_framepos == position


def test_flags_without_effect_are_named():
    words = [word for flag in INEFFECTIVE_FOR_QUESTIONS for word in (flag, "1")]
    parsed = parse(question_parser(), ["--do_eval", *words, *FILES])
    assert parsed.notes == [f"accepted, without effect: {' '.join(INEFFECTIVE_FOR_QUESTIONS)}"]
    compatibility = question_parser().format_help().split("accepted for compatibility, no effect")[1]
    assert all(flag in compatibility for flag in INEFFECTIVE_FOR_QUESTIONS)
    assert "--num_labels" in INEFFECTIVE_FOR_QUESTIONS and "--fp16" in INEFFECTIVE_FOR_QUESTIONS
