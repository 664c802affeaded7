"""Questions about videos: their annotations, vocabulary, batches and accuracy."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from dataloaders.base import ClipDataset, Question
from dataloaders.formats.activity import read_activity_qa
from dataloaders.formats.msrvtt import read_msrvtt_qa
from dataloaders.formats.msvd import read_msvd_qa
from dataloaders.formats.questions import kind_of
from dataloaders.question_answering import UNKNOWN, QuestionDataset, QuestionVideoDataset
from models.tokenizer import Tokenizer
from utils.answers import answer_metrics, frequent_answers, read_answers, write_answers
from utils.errors import InputError

REAL = Path(__file__).parents[2] / "shared" / "data" / "msrvtt" / "qa"
QUESTIONS = [
    Question("what is red?", "a ball", "video3", "what"),
    Question("who runs?", "a dog", "video1", "who"),
    Question("how many run?", "two", "video3", "how"),
]
LINE = {"answer": "a ball", "question": "what is red?", "video_id": "video3", "answer_type": "what"}


def write(path: Path, value) -> Path:
    path.write_text(json.dumps(value))
    return path


def lines(path: Path, *rows: str | dict) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_msrvtt_qa_lines(tmp_path):
    path = lines(tmp_path / "test.jsonl", LINE, LINE | {"question": "who?", "answer_type": "other kind"})
    assert read_msrvtt_qa(path) == [QUESTIONS[0], Question("who?", "a ball", "video3", "other kind")]
    untyped = {name: value for name, value in LINE.items() if name != "answer_type"}
    assert read_msrvtt_qa(lines(path, untyped))[0].kind == "what"


def test_the_older_form_of_msrvtt_qa(tmp_path):
    entry = {"id": 7, "question": "in which park is it?", "answer": "zoo", "category_id": 1, "video_id": 12}
    questions = read_msrvtt_qa(write(tmp_path / "test_qa.json", [entry]))
    assert questions == [Question("in which park is it?", "zoo", "video12", "other")]


def test_kinds_come_from_the_words():
    assert [kind_of(text) for text in ("What is it?", "to whom, and when?", "show it", "a man's who")] == [
        "what",
        "when",
        "other",
        "who",
    ]


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ('{"question": ', "line 2: is no JSON"),
        ({"question": "who?", "answer": "x"}, "line 2: has no key 'video_id'"),
        ({**LINE, "answer": 3}, "line 2, 'answer': expected str, found 3"),
        ({**LINE, "answer": " "}, "line 2, 'answer': is empty"),
        ([], "line 2: expected dict"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, row, place):
    with pytest.raises(InputError, match=f"test.jsonl, {place}"):
        read_msrvtt_qa(lines(tmp_path / "test.jsonl", LINE, row if isinstance(row, str) else json.dumps(row)))


def test_msvd_qa_names_videos_by_the_mapping(tmp_path):
    entries = [{"question": "who?", "answer": "man", "video_id": number, "id": 0} for number in (2, 1)]
    path = write(tmp_path / "val_qa.json", entries)
    lines(tmp_path / "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1", "", "vid2 kd2-name_0_3")
    assert [question.video_id for question in read_msvd_qa(path)] == ["kd2-name_0_3", "-4wsuPCjDBc_5_15"]
    lines(tmp_path / "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1")
    with pytest.raises(InputError, match=r"val_qa.json, \[0\]: asks about vid2"):
        read_msvd_qa(path)
    lines(tmp_path / "youtube_mapping.txt", "-4wsuPCjDBc_5_15")
    with pytest.raises(InputError, match="youtube_mapping.txt, line 1: needs"):
        read_msvd_qa(path)
    write(path, [])
    lines(tmp_path / "youtube_mapping.txt", "a vid1")
    with pytest.raises(InputError, match="has no question"):
        read_msvd_qa(path)


def test_activity_qa_joins_questions_and_answers(tmp_path):
    questions = [{"question": f"is it {number}?", "question_id": f"x_{number}", "video_name": "x"} for number in (0, 1)]
    path = write(tmp_path / "val_q.json", questions)
    answers = [{"question_id": "x_1", "answer": "no", "type": 3}, {"question_id": "x_0", "answer": "yes", "type": 8}]
    write(tmp_path / "val_a.json", answers)
    assert read_activity_qa(path) == [
        Question("is it 0?", "yes", "x", "other"),
        Question("is it 1?", "no", "x", "yes or no"),
    ]
    write(tmp_path / "val_a.json", answers[1:])
    with pytest.raises(InputError, match=r"val_q.json, \[1\]: question 'x_1' has no answer"):
        read_activity_qa(path)
    write(tmp_path / "val_a.json", [answers[0] | {"type": 9}])
    with pytest.raises(InputError, match=r"val_a.json, \[0\], 'type': is 9"):
        read_activity_qa(path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the data folder shared/ is not next to the checkout")
def test_real_questions_of_msrvtt_qa():
    questions, answers = read_msrvtt_qa(REAL / "val.jsonl"), read_answers(REAL / "train_ans2label.json")
    labels = QuestionDataset(questions, answers, Tokenizer(), 32).labels
    assert (len(questions), len(labels) - labels.count(UNKNOWN)) == (12_278, 11_419)
    assert len(answers) == 1500 and answers[0] == "accept"
    assert len({question.video_id for question in questions}) == 497
    assert set(Counter(question.kind for question in questions)) == {"what", "who", "how", "when", "where"}


def test_vocabulary_goes_by_its_own_labels(tmp_path):
    path = write(tmp_path / "ans2label.json", {"b": 1, "c": 0, "a": 2})
    assert read_answers(path) == ["c", "b", "a"]
    write_answers(path, ["x", "y"])
    assert read_answers(path) == ["x", "y"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"a": 1}', '{"a": 0, "b": 0}', '{"a": "0"}', '{"a": false}'])
def test_a_broken_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "ans2label.json"
    path.write_text(content)
    with pytest.raises(InputError, match="ans2label.json"):
        read_answers(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_answers(tmp_path / "absent.json")


def test_frequent_answers():
    assert frequent_answers(["b", "c", "a", "c", "d", "d"], min_count=1) == ["c", "d", "a", "b"]
    assert frequent_answers(["b", "c", "a", "c"], min_count=2) == ["c"]


class Files(dict):
    """A map of any video id to itself."""

    def __missing__(self, name):
        return name


def question_videos(reads: list, together: int = 1) -> QuestionVideoDataset:
    def read(path, start, end):
        reads.append(path)
        return torch.full((2 + int(path[-1]), 3, 4, 4), int(path[-1]), dtype=torch.uint8)

    questions = QuestionDataset(QUESTIONS, ["two", "a ball"], Tokenizer(), 8)
    clips = ClipDataset(questions.split, Files(), read)
    return QuestionVideoDataset(questions.split, questions, clips, together=together)


def test_a_batch_decodes_and_carries_each_video_once():
    reads = []
    dataset = question_videos(reads)
    rows = [dataset.rows.index([question]) for question in (2, 1, 0)]
    batch = dataset.collate(dataset.__getitems__(rows), max_frames=6)
    assert reads == ["video3", "video1"]
    assert batch["video_of_text"].tolist() == [0, 1, 0]
    assert batch["video_ids"].tolist() == [0, 1]
    assert batch["video_mask"].tolist() == [[1] * 5 + [0], [1] * 3 + [0] * 3]
    assert batch["frames"][:, 0, 0, 0].tolist() == [3] * 5 + [1] * 3
    assert batch["labels"].tolist() == [0, UNKNOWN, 1]
    assert batch["ids"].shape == batch["text_mask"].shape == (3, 8)


def test_questions_about_one_video_share_a_batch():
    reads = []
    dataset = question_videos(reads, together=2)
    assert len(dataset) == len(QUESTIONS) // 2
    clips = [[QUESTIONS[question].video_id for question in row] for row in dataset.rows]
    assert all(first == second for first, second in clips)
    assert len(dataset.__getitems__([0])) == 2 and len(reads) == 1


def test_accuracy_against_a_naive_count():
    torch.manual_seed(0)
    known = [f"answer {number}" for number in range(12)]
    truths = [f"answer {number}" for number in torch.randint(0, 16, (60,)).tolist()]
    kinds = ["what" if number % 3 else "who" for number in range(60)]
    ranks = torch.randint(0, 9, (60,))
    metrics = answer_metrics(ranks, truths, kinds, known)
    assert list(metrics) == ["total", "what", "who"]
    for kind, scopes in metrics.items():
        chosen = [number for number in range(60) if kind in ("total", kinds[number])]
        answerable = [number for number in chosen if truths[number] in known]
        for scope, numbers in (("all", chosen), ("answerable", answerable)):
            right = [int(ranks[number]) for number in numbers if truths[number] in known]
            assert scopes[scope]["questions"] == len(numbers)
            assert scopes[scope]["top1"] == pytest.approx(100 * right.count(0) / len(numbers))
            assert scopes[scope]["top5"] == pytest.approx(100 * sum(rank < 5 for rank in right) / len(numbers))
            majority = max(Counter(truths[number] for number in numbers).values())
            assert scopes[scope]["majority"] == pytest.approx(100 * majority / len(numbers))


def test_a_kind_without_answerable_questions():
    metrics = answer_metrics(torch.tensor([0, 3]), ["x", "a"], ["who", "what"], ["a"])
    assert "answerable" not in metrics["who"] and metrics["who"]["all"]["top1"] == 0
    assert metrics["total"]["answerable"] == {"questions": 1, "top1": 0, "top5": 100, "majority": 100}
