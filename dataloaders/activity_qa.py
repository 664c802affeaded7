"""ActivityNet-QA (AAAI 2019): 58,000 questions about 5,800 videos of ActivityNet."""

from pathlib import Path

from dataloaders.annotations import field_of, load_json
from dataloaders.questions import Question, expect_some
from utils.errors import InputError

# What the numbers of `type` stand for.
KINDS = (
    "motion",
    "spatial relation",
    "temporal relation",
    "yes or no",
    "colour",
    "object",
    "location",
    "number",
    "other",
)


def read_activity_qa(path: Path) -> list[Question]:
    """Read one split.

    Args:
        path: {split}_q.json, a list of {question, question_id, video_name}. Next to it is {split}_a.json, a list of
            {question_id, answer, type from 0 to 8}.

    Returns:
        Every question, in the order of its file.

    Raises:
        InputError: a file is missing or malformed, or a question has no answer.
    """
    if not path.name.endswith("_q.json"):
        raise InputError(f"{path}: is no file of questions by its name; give {{split}}_q.json")
    answer_path = path.with_name(path.name.removesuffix("_q.json") + "_a.json")
    answers = {}
    for number, entry in enumerate(load_json(answer_path, list)):
        place = f"{answer_path}, [{number}]"
        kind = field_of(entry, "type", int, place)
        if kind not in range(len(KINDS)):
            raise InputError(f"{place}: type is {kind}, not 0 to {len(KINDS) - 1}; fix the entry")
        answers[field_of(entry, "question_id", str, place)] = field_of(entry, "answer", str, place), KINDS[kind]
    questions = []
    for number, entry in enumerate(load_json(path, list)):
        place = f"{path}, [{number}]"
        names = ("question", "video_name", "question_id")
        question, video_id, question_id = (field_of(entry, name, str, place) for name in names)
        if question_id not in answers:
            raise InputError(f"{place}: question {question_id!r} has no answer in {answer_path}; fix either")
        questions.append(Question(question, answers[question_id][0], video_id, answers[question_id][1]))
    return expect_some(questions, path)
