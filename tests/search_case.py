"""An index of small videos that several tests make and compare."""

import subprocess
import sys
from pathlib import Path

from scripts.searching.about import IndexedModel, Manifest
from scripts.searching.build import build_index
from scripts.searching.store import SEGMENTS, Store
from tests.conftest import write_video
from utils.checkpoint import sha256

ROOT = Path(__file__).parents[1]
SAMPLING = {"max_frames": 4, "framerate": 1, "segment": 8, "overlap": 3}
SIZES = ["--max_words", "16", "--max_frames", "4", "--segment", "8", "--overlap", "3", "--group", "0", "--workers", "0"]


def write_videos(folder):
    """Write three short videos, one of them in a subfolder, and one of 19 s, which makes four segments."""
    for number, name in enumerate(("a.mp4", "b.mp4", "deeper/c.mp4")):
        write_video(folder / name, hue=number)
    write_video(folder / "long.mp4", hue=4, seconds=19, fps=2)
    return folder


def manifest_of(model, checkpoint, videos, **changed):
    made_of = {"folder": str(videos), "digest": sha256(checkpoint), "sampling": SAMPLING, "max_words": 16}
    return Manifest(**made_of | {"model": IndexedModel.of(model, str(checkpoint), None)} | changed)


def make_index(model, checkpoint, videos, address, **options):
    """Update an index in this process; options may be those of the manifest."""
    own = {name: options.pop(name) for name in ("captioner", "details", "rebuild", "workers") if name in options}
    return build_index(model, address, manifest_of(model, checkpoint, videos, **options), **own)


def content(address):
    """All rows of an index, in the order of their places in the videos."""
    table = Store(address)._connection.open_table(SEGMENTS).to_arrow()
    return sorted(table.to_pylist(), key=lambda row: (row["video"], row["number"]))


def counts(changes):
    return changes.computed, changes.kept, changes.moved, changes.removed, len(changes.skipped)


def command_line(*words, code=None):
    """Run scripts/search.py, or Python code, in a separate process."""
    program = ["-c", code] if code else ["scripts/search.py"]
    return subprocess.run([sys.executable, *program, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
