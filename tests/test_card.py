"""The values of a model card: training data, metrics and limits of each task."""

import pytest

from models import ANSWER_METHODS, CAPTION_METHODS, CLIP, HBI
from models.card import card_values
from tests.conftest import SMALL
from utils.config import RunConfig

FLAGS = {
    "datatype": "msvd", "recipe": "corrected", "base_encoder": "ViT-B/32", "epochs": 5, "batch_size": 128, "lr": 0.0001,
    "coef_lr": 0.001, "seed": 7, "max_words": 20, "max_frames": 9, "workers": 3,
}  # fmt: skip
COUNTS = {"captions": 4, "videos": 3, "captions_left_out": 6, "videos_left_out": 0, "checkpoint": {}}


def run(commit: str | None) -> RunConfig:
    return RunConfig(
        method="hbi", options={}, quick_gelu=True, flags=FLAGS, command=[], processes=1, versions={}, commit=commit
    )


@pytest.mark.parametrize(
    ("metrics", "table"),
    [
        (
            {"t2v": {"R1": 46.75, "R50": 99.0, "MdR": 2.0}, "v2t": {"R1": 45.5, "R50": 98.0, "MdR": 1.0}},
            ["|  | R1 | MdR |", "| --- | --- | --- |", "| text to video | 46.75 | 2 |", "| video to text | 45.5 | 1 |"],
        ),
        (
            {"total": {"all": {"questions": 9, "accuracy": 50.25}, "answerable": {"questions": 8, "accuracy": 60}}},
            ["|  | accuracy |", "| --- | --- |", "| all questions | 50.25 |", "| answerable questions | 60 |"],
        ),
        (
            {"captions": {"BLEU-4": 12.5, "CIDEr": 99.0}},
            ["|  | BLEU-4 | CIDEr |", "| --- | --- | --- |", "| captions | 12.5 | 99 |"],
        ),
    ],
)
def test_metrics_of_each_task_are_a_table(model, metrics, table):
    found = card_values(model, None, metrics | {"run": COUNTS})["metrics"]
    assert found == "\n".join([*table, "", "The data: 4 of 10 captions, 3 videos."])
    assert card_values(model, None, None)["metrics"] == "Not recorded: there is no metrics.json of these weights."


@pytest.mark.parametrize(("commit", "trained"), [("abc", "Trained at commit `abc`"), (None, "Trained")])
def test_the_training_is_a_table_of_the_flags_that_decide(model, commit, trained):
    values = card_values(model, run(commit), None)
    rows = [f"| {name} | {FLAGS[name]} |" for name in list(FLAGS)[:8]]
    expected = ["| flag | value |", "| --- | --- |", *rows, "", f"{trained}; config.json has all flags."]
    assert values["data"] == "\n".join(expected) and (values["words"], values["frames"]) == (20, 9)
    unknown = card_values(model, None, None)
    assert unknown["data"].startswith("Not recorded: ") and (unknown["words"], unknown["frames"]) == (32, 12)


def test_a_model_is_presented_by_its_task(model):
    answering = ANSWER_METHODS["emcl"](CLIP(SMALL), ["yes", "no"], temporal_layers=1)
    captioning = CAPTION_METHODS["hbi"](CLIP(SMALL), temporal_layers=1)
    found = {name: card_values(of, None, None) for name, of in
             (("retrieval", model), ("answers", answering), ("captions", captioning))}  # fmt: skip
    assert {name: values["heading"] for name, values in found.items()} == {
        "retrieval": f"{HBI.__name__}: text-video retrieval",
        "answers": "EMCLQA: video question answering",
        "captions": "HBICaptioning: video captioning",
    }
    assert [word in found[name]["call"] for name, word in
            (("retrieval", "similarity"), ("answers", "answer("), ("captions", "describe("))] == [True] * 3  # fmt: skip
    retrieval, answers = found["retrieval"], found["answers"]
    assert (retrieval["method"], retrieval["arxiv"], retrieval["year"]) == ("hbi", "2303.14369", 2023)
    assert (answers["method"], answers["arxiv"], answers["year"]) == ("emcl", "2211.11427", 2022)
    assert retrieval["clip"] == SMALL and "no probability" in retrieval["bounds"]
