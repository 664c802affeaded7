"""MSVD (ACL 2011), 1,200, 100 and 670 videos, with 18 to 81 captions each; in evaluation every caption is a query."""

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from dataloaders.annotations import expect, load_json
from dataloaders.base import Clip, Split
from dataloaders.captions import captions_of, group, read_ids
from utils.errors import InputError


def read_msvd(anno_path: Path, split: str) -> Split:
    """Read one split.

    Args:
        anno_path: folder with train_list.txt, val_list.txt and test_list.txt (an id a line), and raw-captions.pkl (id
            -> list of captions, each a list of words) or raw-captions.json (id -> list of strings).
        split: "train", "val" or "test".

    Returns:
        Every caption of every listed video. Clips are whole videos.

    Raises:
        InputError: a file is missing or malformed, or a listed video has no caption.
    """
    ids = read_ids(anno_path / f"{split}_list.txt")
    path = anno_path / "raw-captions.json"
    captions = load_json(path, dict) if path.is_file() else _load_pickle(path := anno_path / "raw-captions.pkl")
    return group([Clip(video_id) for video_id in ids], captions_of(captions, ids, str(path)))


class _PlainUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, strings and numbers; a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse."""
        raise pickle.UnpicklingError("it asks for an object outside")


def _load_pickle(path: Path) -> dict:
    """The dict that a pickle holds."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --anno_path") from error
    try:
        captions = _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
    except (pickle.UnpicklingError, EOFError, UnicodeDecodeError, ValueError, IndexError, KeyError, TypeError,
            AttributeError, MemoryError, OverflowError) as error:  # fmt: skip
        raise InputError(f"{path}: is no pickle of plain captions ({error}); get the file again") from error
    return expect(captions, dict, f"{path}")
