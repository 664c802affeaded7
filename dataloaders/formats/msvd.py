"""MSVD (ACL 2011): 1,970 videos, every caption a query; MSVD-QA (ACM MM 2017): 50,505 questions about them."""

import io
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

from dataloaders.base import Question, Split
from dataloaders.formats.questions import read_numbered
from dataloaders.formats.schema import captions_of, check, group, read_ids, read_json, read_lines
from utils.errors import InputError

MAPPING = "youtube_mapping.txt"


def read_msvd(anno_path: Path, split: str) -> Split:
    """Read {split}_list.txt, an id per line, and the captions.

    They are in raw-captions.json, id -> list of strings, or raw-captions.pkl, id -> list of lists of words.
    """
    ids = read_ids(anno_path / f"{split}_list.txt")
    path = anno_path / "raw-captions.json"
    captions = read_json(path, dict) if path.is_file() else _load_pickle(path := anno_path / "raw-captions.pkl")
    return group(captions_of(captions, ids, path))


class _PlainUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, strings and numbers; a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse."""
        raise pickle.UnpicklingError("it asks for an object outside")


def _load_pickle(path: Path) -> dict:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --anno_path") from error
    try:
        captions = _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
    except (pickle.UnpicklingError, EOFError, UnicodeDecodeError, ValueError, IndexError, KeyError, TypeError,
            AttributeError, MemoryError, OverflowError) as error:  # fmt: skip
        raise InputError(f"{path}: is no pickle of plain captions ({error}); get the file again") from error
    return check(dict, captions, path)


def read_msvd_qa(path: Path) -> list[Question]:
    """Read {split}_qa.json, whose videos have numbers N, and next to it youtube_mapping.txt, lines "<name> vidN"."""
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
