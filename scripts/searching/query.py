"""Questions to an index.

S segments of all videos, N_v frames of a segment, K candidates, D width.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from models import HBI, Tokens, load_model
from models.export import model_digest
from models.shortlist import Gallery, vectors
from scripts.searching.storage import AGAIN, Manifest, read_entry, read_manifest
from utils.errors import InputError

SHORTLIST = 100
"""Segments that are compared with a query word by word."""


@dataclass(frozen=True)
class Segment:
    """A part of a video.

    Attributes:
        file: path of the video within the indexed folder.
        start, end: seconds.
    """

    file: str
    start: float
    end: float

    def overlaps(self, other: "Segment") -> bool:
        """Whether two segments share a moment of one video."""
        return self.file == other.file and self.start < other.end and other.start < self.end


@dataclass(frozen=True)
class Hit(Segment):
    """A segment that a query found, and its similarity."""

    similarity: float


def clock(seconds: float) -> str:
    """A time in a video as hours, minutes and seconds: 3723.4 is "1:02:03", 65 is "1:05"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class VideoIndex:
    """An index in memory, 4 * N_v * D bytes a segment and level, and its model.

    Args:
        path: folder of the index.
        device: where the model goes.
        checkpoint: where the model's file lies now; None: where it lay when the index was made.

    Raises:
        InputError: it is no index, damaged or empty, or the model cannot be read or is another one.
    """

    def __init__(self, path: Path, device: str | torch.device = "cpu", checkpoint: str | None = None):
        self.path, self.manifest = path, read_manifest(path)
        frames = self.manifest.sampling.max_frames
        entries = {file: read_entry(self.manifest.entry(path, file), frames) for file in self.manifest.files}
        self.skipped = {file: entry.reason for file, entry in entries.items() if entry.reason}
        self.segments = [Segment(file, *times) for file, entry in entries.items() for times in entry.times.tolist()]
        if not self.segments:
            raise InputError(f"{path}: holds no video yet; {AGAIN}")
        self._ends = {segment.file: segment.end for segment in self.segments}  # of the last segment of each file
        self.model = load_indexed_model(self.manifest, device, checkpoint)
        tokens = torch.cat([entry.tokens for entry in entries.values()])  # (S, N_v, D)
        mask = torch.cat([entry.mask for entry in entries.values()])  # (S, N_v)
        self.gallery = Gallery(self.model, tokens.to(self.model.device), mask.to(self.model.device))

    def file(self, name: str) -> Path:
        """Where a video of the index lies.

        Raises:
            KeyError: it is not in the index.
        """
        if name not in self.manifest.files:
            raise KeyError(name)
        return Path(self.manifest.folder, name)

    def sampling(self, segment: Segment) -> dict[str, float | None]:
        """Keywords of `utils.video.decode.decode_clip` that give the frames of a segment."""
        end = None if segment.end == self._ends[segment.file] else segment.end
        sizes = self.manifest.sampling.model_dump(include={"max_frames", "framerate"})
        return {**sizes, "start": segment.start, "end": end}

    def search(self, query: str, *, top: int = 10, shortlist: int = SHORTLIST) -> list[Hit]:
        """Find what a sentence describes.

        Args:
            query: a sentence.
            top: how many segments.
            shortlist: K, how many segments the interaction ranks: those whose pooled vectors are nearest.

        Returns:
            At most `top` segments that do not overlap, the most similar first.

        Raises:
            InputError: the query is empty.
        """
        if not query.strip():
            raise InputError("the query is empty: describe what to look for")
        text = self.model.encode_text([query], self.manifest.max_words)
        near = self.gallery.nearest(text, max(shortlist, top))
        return self._best(near[0].tolist(), self.gallery.similarity(text, near)[0].cpu(), top)

    def like(self, video: Tokens, *, top: int = 10) -> list[Hit]:
        """Find segments that look like one picture or video; the similarity is that of the pooled vectors.

        Args:
            video: frame tokens (1, N_v, D) and their mask, as `encode_video` gives them.
            top: how many segments.
        """
        query = vectors(self.model, *video, "video").cpu()
        similarity = (self.gallery.shortlist.vectors @ query.T).squeeze(1)
        near = similarity.argsort(descending=True, stable=True)
        return self._best(near.tolist(), similarity[near], top)

    def _best(self, near: list[int], similarity: Tensor, top: int) -> list[Hit]:
        """The best of the segments `near` by their similarities (K,), without overlaps."""
        hits: list[Hit] = []
        for place in similarity.argsort(descending=True, stable=True).tolist():
            segment = self.segments[near[place]]
            if len(hits) < top and not any(segment.overlaps(hit) for hit in hits):
                hits.append(Hit(**asdict(segment), similarity=similarity[place].item()))
        return hits


def load_indexed_model(manifest: Manifest, device: str | torch.device, checkpoint: str | None = None) -> HBI:
    """Load the model that an index was made with.

    Args:
        manifest: of the index.
        device: where the model goes.
        checkpoint: where the model's file lies now, if it was moved.

    Raises:
        InputError: the file cannot be read, or it is another model.
    """
    options = manifest.model.options() | ({"checkpoint": checkpoint} if checkpoint else {})
    if model_digest(options["checkpoint"]) != manifest.digest:  # before anything is loaded
        raise InputError(
            f"{options['checkpoint']}: is not the model that the index was made with; give that one by --checkpoint, "
            "or make another index"
        )
    return load_model(**options, device=device)
