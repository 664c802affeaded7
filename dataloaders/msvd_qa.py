"""MSVD-QA (ACM MM 2017): 50,505 questions about MSVD's 1,970 videos."""

import re
from pathlib import Path

from dataloaders.annotations import read_lines
from dataloaders.questions import Question, read_numbered
from utils.errors import InputError

MAPPING = "youtube_mapping.txt"


def read_msvd_qa(path: Path) -> list[Question]:
    """Read one split.

    Args:
        path: {split}_qa.json, a list of {question, answer, video_id as a whole number N}. Next to it is
            youtube_mapping.txt, a line "<YouTube id>_<start>_<end> vidN" for each video.

    Returns:
        Every question.

    Raises:
        InputError: a file is missing or malformed, or a number is not in the mapping.
    """
    mapping = path.parent / MAPPING
    names = _read_mapping(mapping)

    def video_id_of(number: int, place: str) -> str:
        if number not in names:
            raise InputError(f"{place}: asks about vid{number}, which {mapping} does not name; fix either")
        return names[number]

    return read_numbered(path, video_id_of)


def _read_mapping(path: Path) -> dict[int, str]:
    """Number -> name of the video; the two words of a line may come in either order."""
    names = {}
    for number, line in read_lines(path):
        words = line.split()
        key = next((word for word in reversed(words) if re.fullmatch(r"vid\d+", word)), None)
        if len(words) != 2 or key is None:
            raise InputError(f"{path}, line {number}: needs a name and vidN, found {line.strip()[:60]!r}; fix it")
        words.remove(key)
        names[int(key[3:])] = words[0]
    return names
