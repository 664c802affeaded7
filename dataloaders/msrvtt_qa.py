"""MSRVTT-QA (ACM MM 2017): 243,690 questions about MSR-VTT's 10,000 videos."""

from pathlib import Path

from dataloaders.annotations import read_json_lines
from dataloaders.questions import Question, kind_of, read_numbered


def read_msrvtt_qa(path: Path) -> list[Question]:
    """Read one split.

    Args:
        path: {split}.jsonl, an object {question, answer, video_id, answer_type} a line, or the older {split}_qa.json, a
            list of {question, answer, video_id as a whole number}.

    Returns:
        Every question; its kind is answer_type, or where that is missing inferred from its words.

    Raises:
        InputError: the file is missing or malformed.
    """
    if path.suffix == ".json":
        return read_numbered(path, lambda number, _: f"video{number}")
    names = ("question", "answer", "video_id")
    return [
        Question(*(row[name] for name in names), kind=str(row.get("answer_type") or kind_of(row["question"])))
        for _, row in read_json_lines(path, names)
    ]
