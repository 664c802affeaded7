"""Plan of an update of an index: which videos are new, changed, moved or gone."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.searching.rows import Details, file_name, stored_name
from scripts.searching.store import Store, quoted
from utils.checkpoint import sha256
from utils.errors import InputError

Identity = tuple[int, int]
Named = tuple[str, dict[str, Any] | None]


@dataclass
class Plan:
    """The work of an update.

    Attributes:
        missing: videos to be read.
        contents: remaining video -> its SHA-256.
        kept, moved, removed: numbers of videos, see `scripts.searching.build.Changes`.
    """

    missing: list[str] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    moved: int = 0
    removed: int = 0

    def remove_stale(self, store: Store, computed: dict[str, str]) -> None:
        """Remove the rows of videos, and of their contents, that are no longer in the folder."""
        current = self.contents | computed
        store.delete([
            f"video = {quoted(row['video'])} AND content = {quoted(row['content'])}"
            for row in store.videos()
            if current.get(file_name(row["video"])) != row["content"]
        ])  # fmt: skip


def make_plan(store: Store, folder: Path, files: list[str], details: Mapping[str, Details] | None) -> Plan:
    """Compare a folder with its index, and update names, times of change and details.

    A file with the size and time of change in the index counts as unchanged. If only the size is in the index, the
    content decides whether it was moved or touched.
    """
    known, gone = defaultdict(list), {}
    for row in store.videos("caption", "tags", "date"):
        known[file_name(row["video"])].append(row)
    for name in known.keys() - set(files):
        gone |= {(row["size"], row["content"]): (name, row) for row in known[name]}
    plan, removed = Plan(), known.keys() - set(files)
    for file in files:
        found = identity(folder / file)
        name, row = _earlier(folder / file, found, [(file, row) for row in known.get(file, ())], gone)
        if row is None:
            plan.missing.append(file)
            continue
        if name != file:
            del gone[row["size"], row["content"]]
            removed.discard(name)
        plan.contents[file] = row["content"]
        plan.kept, plan.moved = plan.kept + (name == file), plan.moved + (name != file)
        _update(store, row, {"video": stored_name(file), "changed": found[1], **_said(details, file)})
    plan.removed = len(removed)
    return plan


def identity(path: Path) -> Identity:
    """Size and time of change of a file; zeros if it is not accessible, which reading it then reports."""
    with suppress(OSError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    return 0, 0


def _earlier(path: Path, found: Identity, same: list[Named], gone: dict[tuple[int, str], Named]) -> Named:
    """The name and row of a file in the index.

    Args:
        path: the file.
        found: its identity.
        same: rows of its name.
        gone: rows of names that are not in the folder, by size and content.
    """
    for name, row in same:
        if (row["size"], row["changed"]) == found:
            return name, row
    contents = {(row["size"], row["content"]): (name, row) for name, row in same}
    contents = {**gone, **contents}
    if any(size == found[0] for size, _ in contents):
        with suppress(InputError):
            return contents.get((found[0], sha256(path)), ("", None))
    return "", None


def _said(details: Mapping[str, Details] | None, file: str) -> dict[str, Any]:
    """The columns of details."""
    if details is None or file not in details:
        return {}
    said = asdict(details[file])
    return {**said, "tags": list(said["tags"]) or None}


def _update(store: Store, row: dict[str, Any], values: dict[str, Any]) -> None:
    """Update changed values in the rows of a video."""
    if changed := {name: value for name, value in values.items() if row[name] != value}:
        store.update(f"video = {quoted(row['video'])} AND content = {quoted(row['content'])}", changed)
