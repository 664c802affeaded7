"""Queries to an index.

N_v frames of a segment, K candidates, D width.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from models import RetrievalMethod, Tokens
from models.export import model_digest
from models.shortlist import check_shortlist, vectors
from scripts.searching.about import Manifest
from scripts.searching.compression import restore
from scripts.searching.moments import Candidate, Hit, Segment, moments
from scripts.searching.rows import file_name, numbers, stored_name
from scripts.searching.store import REBUILD, Store, quoted
from utils.errors import InputError

SHORTLIST = 100
"""Segments that are compared with a query by the method's similarity."""
SHOWN = ("video", "start", "end", "duration", "caption", "tags", "date")
COMPARED = ("frames", "times", "vector", "tokens")


def clock(seconds: float) -> str:
    """A time in a video as hours, minutes and seconds: 3723.4 is "1:02:03", 65 is "1:05"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class VideoIndex:
    """An index and its model; only the rows that a query compares are read.

    Args:
        address: of the index, see `Store`.
        device: where the model goes.
        checkpoint: path of the model's file; None: the path when the index was made.
        folder: of the videos; None: the one of the last update.

    Raises:
        InputError: it is no index, damaged or empty, or the model cannot be read or is a different one.
    """

    def __init__(
        self,
        address: str | Path,
        device: str | torch.device = "cpu",
        checkpoint: str | None = None,
        folder: str | Path | None = None,
    ):
        self.store = Store(address)
        manifest = self.store.manifest()
        if manifest is None:
            raise InputError(f"{address}: no index of videos is there; make one with scripts/search.py index")
        self.manifest = manifest.model_copy(update={"folder": str(folder)} if folder else {})
        self.model = _load(self.manifest, device, checkpoint, self.store.address)
        self.store.check(self.manifest, self.model.clip.config.embed_dim)
        self._shown = [*SHOWN, *(["description"] if self.manifest.captions else [])]

    @cached_property
    def files(self) -> list[str]:
        """Every video of the index, sorted."""
        return sorted({self._named(row["video"]) for row in self.store.videos()})

    @property
    def path(self) -> str | Path:
        """Path or address of the index."""
        return self.store.folder or self.store.address

    def holds(self, name: str) -> bool:
        """Whether a video is in the index."""
        return self.store.count(f"video = {quoted(stored_name(name))}") > 0

    def file(self, name: str) -> Path:
        """Path of a video of the index."""
        return Path(self.manifest.folder, name)

    def sampling(self, segment: Segment) -> dict[str, float | None]:
        """Keywords of `utils.video.decode.decode_clip` for the frames of a segment."""
        end = None if segment.end >= segment.duration else segment.end
        return {**self.manifest.sampling.of_frames(), "start": segment.start, "end": end}

    @torch.no_grad()
    def search(
        self, query: str, *, top: int = 10, shortlist: int = SHORTLIST, skip: int = 0, where: str | None = None
    ) -> list[Hit]:
        """Find the segments that a sentence describes.

        Args:
            query: a sentence.
            top: number of results.
            shortlist: K, number of segments of nearest vectors that the method compares.
            skip: number of first results to leave out, for pages.
            where: condition on rows in SQL, such as "date >= '2024-01-01' AND array_has(tags, 'sport')".

        Returns:
            At most `top` segments that show different moments, the most similar first.

        Raises:
            InputError: the query is empty, or the condition is wrong.
        """
        if not query.strip():
            raise InputError("the query is empty: describe what to look for")
        text = self.model.encode_text([query], self.manifest.max_words)
        vector = vectors(self.model, *text, "text")[0]
        rows, video = self._nearest(vector, max(shortlist, 2 * (skip + top)), where)
        sim = self.model.rerank(self.model.similarity(text, video), text, video)[0][0] if len(rows) else vector[:0]
        return self._hits(rows, sim.cpu(), self._scores(video, vector), skip, top)

    @torch.no_grad()
    def like(self, video: Tokens, *, top: int = 10, where: str | None = None) -> list[Hit]:
        """Find segments similar to one picture or video, by the similarity of pooled vectors.

        Args:
            video: frame tokens (1, N_v, D) and their mask, as `encode_video` gives them.
            top: number of segments.
            where: as for `search`.
        """
        vector = vectors(self.model, *video, "video")[0]
        rows, found = self._nearest(vector, max(SHORTLIST, 2 * top), where)
        near = torch.from_numpy(numbers(rows["vector"])).float() @ vector.cpu()
        return self._hits(rows, near, self._scores(found, vector), 0, top)

    def _nearest(self, vector: torch.Tensor, count: int, where: str | None) -> tuple[pa.Table, Tokens]:
        """The `count` rows whose vectors are nearest to `vector` (D,), and their tokens."""
        columns = [*self._shown, *COMPARED, *(["scales"] if self.manifest.bits < 16 else [])]
        rows = self.store.nearest(vector.cpu().numpy(), count, where, columns)
        return rows, self._tokens(rows)

    def _scores(self, video: Tokens, vector: torch.Tensor) -> torch.Tensor:
        """Cosines (K, N_v) of frames and `vector` (D,)."""
        return (F.normalize(video.tokens, dim=-1) @ vector).cpu()

    def _tokens(self, rows: pa.Table) -> Tokens:
        """Tokens (K, N_v, D) and mask (K, N_v) of rows, where the model is."""
        columns = {name: numbers(rows[name]) for name in ("vector", "tokens", "scales") if name in rows.column_names}
        tokens = restore(columns, torch.from_numpy(columns["vector"]), self.manifest.bits)
        mask = torch.arange(tokens.shape[1]) < torch.tensor(rows["frames"].to_pylist()).unsqueeze(1)
        return Tokens(tokens.to(self.model.device), mask.long().to(self.model.device))

    def _hits(self, rows: pa.Table, sim: torch.Tensor, scores: torch.Tensor, skip: int, top: int) -> list[Hit]:
        """Results from rows, their similarities (K,) and the scores of their frames (K, N_v)."""
        if not (sim.isfinite().all() and scores.isfinite().all()):
            raise InputError(f"{self.store.address}: holds numbers that are not finite; {REBUILD}")
        shown, times = rows.select(self._shown).to_pylist(), numbers(rows["times"]).astype(np.float64)
        bounds = [row[name] for row in shown for name in ("start", "end", "duration")]
        finite = np.isfinite(np.array([*bounds, *times.flat], float)).all()
        if not (finite and rows["frames"].to_numpy().min(initial=1) > 0):
            raise InputError(f"{self.store.address}: holds times that are none; {REBUILD}")
        order = sim.argsort(descending=True, stable=True).tolist()
        shots = self.manifest.sampling.cut == "shots"
        candidates = [
            Candidate(
                Segment(self._named(row["video"]), row["start"], row["end"], row["duration"]),
                sim[place].item(),
                times[place, :frames].tolist(),
                scores[place, :frames].tolist(),
            )
            for place in order
            for row, frames in [(shown[place], rows["frames"][place].as_py())]
        ]
        return [
            Hit(
                **vars(candidates[place].segment),
                similarity=candidates[place].similarity,
                begin=begin,
                finish=finish,
                caption=row["caption"] or "",
                tags=tuple(row["tags"] or ()),
                date=row["date"] or "",
                description=row.get("description") or "",
            )
            for place, begin, finish in moments(candidates, skip + top, shots=shots)[skip:]
            for row in [shown[order[place]]]
        ]

    def _named(self, stored: str) -> str:
        """Path of a stored video name."""
        try:
            return file_name(stored)
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.store.address}: {error}; {REBUILD}") from error


def _load(manifest: Manifest, device: str | torch.device, checkpoint: str | None, address: str) -> RetrievalMethod:
    """Load the model that an index was made with."""
    file = checkpoint or manifest.model.checkpoint
    if model_digest(file) != manifest.digest:  # before anything is loaded
        raise InputError(
            f"{file}: is not the model that the index was made with; give that one by --checkpoint, or make another "
            "index"
        )
    model = manifest.model.load(device, checkpoint, address)
    check_shortlist(model)
    return model
