"""Writing and removing files: atomically, and only the project's own.

A folder whose files the project may replace or remove has `MARKER`. Only this module renames and removes.
"""

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from utils.errors import InputError, printable

MARKER = ".hbi_folder"
"""File that marks a folder as the project's own, and holds the folder's kind."""
OUTPUTS = (
    r"log\.txt|metrics\.json|predictions\.jsonl|captions\.jsonl|references\.json|similarity\.npy|ranks\.npz|scatter\.png|"
    r"bad_videos\.txt|skip_list\.txt|"
    r"data_report\.json|missing_videos_\w+\.txt|train_ans2label\.json|pytorch_model\.bin\..+|training_state|tensorboard|"
    r"config\.json|model\.safetensors|\w+\.onnx"
)
"""Names of the files that runs and exports write into their output folder."""
DEPTH = 4
"""Levels between a marked folder and its files."""


def claim_folder(
    folder: str | Path,
    kind: str,
    *,
    apart_from: Iterable[str | Path] = (),
    names: str | None = None,
    flag: str = "folder",
) -> Path:
    """Mark a folder as the project's own, so that its files may be replaced and removed.

    Args:
        folder: created if missing.
        kind: of content, such as "index".
        apart_from: folders of the user that it must not be, contain or lie in.
        names: regular expression of the files to be written; files of other names may be there already. None: the
            folder must be empty.
        flag: name of the folder's flag, for messages.

    Raises:
        InputError: it cannot be written, or has files that the project has not written.
    """
    folder = Path(folder)
    own = folder.resolve()
    for other in map(Path, apart_from):
        if own == other.resolve() or own in other.resolve().parents or other.resolve() in own.parents:
            raise InputError(f"{folder}: is, contains or is inside {other}; give another {flag}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _has_marker(folder, kind):
            return folder
        foreign = [entry for entry in os.listdir(folder) if not entry.startswith(f".{MARKER}.")]
        foreign = [entry for entry in foreign if names is None or re.fullmatch(names, entry)]
        if foreign and not _has_marker(folder, kind):  # another process may have marked it meanwhile
            found = printable(min(foreign))
            raise InputError(f"{folder}: holds {found}, which no {kind} of this version wrote; give another {flag}")
        with atomic_write(folder / MARKER) as file:
            file.write(f"{kind}\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another {flag}") from error
    return folder


def _has_marker(folder: Path, kind: str | None = None) -> bool:
    """Whether a folder is the project's own, and of the kind."""
    marker = folder / MARKER
    try:
        return is_regular(marker) and (kind is None or marker.read_text(encoding="utf-8") == f"{kind}\n")
    except (OSError, UnicodeDecodeError):
        return False


def remove(path: Path, names: str) -> bool:
    """Remove a file in a marked folder, no link, whose name matches the regular expression `names`.

    Returns:
        Whether it was removed.
    """
    if not re.fullmatch(names, path.name) or not is_regular(path):
        return False
    if not any(_has_marker(parent) for parent in list(path.absolute().parents)[:DEPTH]):
        return False
    with suppress(FileNotFoundError):
        path.unlink()
    return True


def temporary_names(name: str) -> str:
    """Regular expression of `atomic_write`'s temporary names for files whose names match `name`."""
    return rf"\.(?:{name})\.\w{{8}}"


def is_regular(path: str | Path) -> bool:
    """Whether a path is a file: no link, pipe or device."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def open_own(path: str | Path, mode: str) -> IO:
    """Open a file for appending ("a", "ab" or "a+b"), created if missing; a link is an OSError."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    return open(path, mode, opener=opener, encoding=None if "b" in mode else "utf-8")


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", *, sync: bool = True) -> Iterator[IO]:
    """Open a temporary file in the folder of `path`, created if missing, and rename it to `path` when complete.

    `mode` is "w" for UTF-8 text or "wb". Without `sync` a failure of the machine may truncate the file.

    Raises:
        InputError: the folder cannot be written, the disk is full, or `path` is a link; an earlier file is unchanged.
    """
    path = Path(path)
    temporary = None
    try:
        if path.is_symlink():
            raise InputError(f"{path}: is a link, which is not written through; remove it or give another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); free space or choose another folder") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    """The process's file mode mask, which mkstemp's private mode ignores."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
