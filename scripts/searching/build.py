"""Making and updating an index.

S segments of a video, N_v frames of a segment, D width.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from models import RetrievalMethod
from models.shortlist import check_shortlist, vectors
from scripts.searching.about import Manifest
from scripts.searching.captions import Captioner, check_captioner
from scripts.searching.plan import Plan, identity, make_plan
from scripts.searching.rows import Details, Encoded, rows_of
from scripts.searching.segments import Finished, Part, SegmentReader, list_videos
from scripts.searching.store import Store
from utils.distributed import barrier, from_main, is_main, rank, world_size
from utils.logger import progress

logger = logging.getLogger("hbi")

ROWS_TOGETHER, SECONDS_TOGETHER = 2048, 60
"""Videos are added to the table after as many segments, or seconds: each addition makes a file."""


@dataclass(frozen=True)
class Changes:
    """Results of an update.

    Attributes:
        computed: videos that were read.
        kept: unchanged videos of the index.
        moved: videos of the index under another name.
        removed: videos of the index that are gone.
        skipped: unusable video -> reason.
    """

    computed: int
    kept: int
    moved: int
    removed: int
    skipped: dict[str, str] = field(default_factory=dict)


def build_index(
    model: RetrievalMethod,
    address: str | Path,
    manifest: Manifest,
    workers: int = 0,
    *,
    details: Mapping[str, Details] | None = None,
    captioner: Captioner | None = None,
    rebuild: bool = False,
) -> Changes:
    """Make or update an index of a folder of videos; only new and changed videos are computed.

    The rows of a video are added together when all are there, so that the index is the same however often the work was
    cut short and however many processes share it.

    Args:
        model: encodes the frames.
        address: of the index, see `Store`.
        manifest: what the index is made of.
        workers: decoding processes of each process.
        details: of videos; None keeps the earlier ones.
        captioner: describes the segments of an index with captions.
        rebuild: start from nothing.

    Returns:
        The changes, the same on every process.

    Raises:
        InputError: there are no videos, the folder is no index or in the folder of the videos, the index is damaged or
            was made of something else, or the model cannot be searched with.
    """
    check_shortlist(model)
    check_captioner(captioner, model, manifest)
    store, folder = Store(address), Path(manifest.folder)

    def prepare() -> tuple[Plan, bool]:
        files = list_videos(folder)
        store.claim(folder)
        earlier = None if rebuild else store.manifest()
        if earlier is None:
            store.create(manifest, model.clip.config.embed_dim)
        else:
            earlier.check_same(manifest, store.address)
            store.write_manifest(manifest)
        return make_plan(store, folder, files, details), earlier is None

    plan, fresh = from_main(prepare)
    files = plan.missing[rank() :: world_size()]
    loader = _loader(model, files, manifest, workers)
    encoded = progress(_encoded(model, captioner, loader, manifest), "videos", logger, len(files))
    finished = _gathered(_add(store, encoded, manifest, details or {}))
    skipped = {video.file: video.reason for video in finished if video.reason}
    if is_main():
        plan.remove_stale(store, {video.file: video.content for video in finished if not video.reason})
        store.write_manifest(manifest.model_copy(update={"skipped": len(skipped)}))
        store.tidy(fresh=fresh)
    barrier()
    return Changes(len(finished) - len(skipped), plan.kept, plan.moved, plan.removed, skipped)


def _loader(model: RetrievalMethod, files: list[str], manifest: Manifest, workers: int) -> DataLoader:
    """Read videos in `workers` processes."""
    reader = SegmentReader(Path(manifest.folder), files, model.clip.config.resolution, manifest.sampling)
    count = min(workers, len(files))  # a fork would copy the threads of the table's engine in some unknown state
    return DataLoader(reader, None, num_workers=count, multiprocessing_context="forkserver" if count else None)


def _add(
    store: Store,
    videos: Iterable[tuple[Finished, Encoded | None]],
    manifest: Manifest,
    details: Mapping[str, Details],
) -> list[Finished]:
    """Add videos to the table as they come."""
    folder = Path(manifest.folder)
    waiting: list[pa.Table] = []
    last, finished = time.monotonic(), []
    for video, encoded in videos:
        finished.append(video)
        if not video.reason:
            said = details.get(video.file, Details())
            waiting.append(rows_of(encoded, video, identity(folder / video.file), said, manifest))
        if sum(map(len, waiting)) >= ROWS_TOGETHER or (waiting and time.monotonic() - last > SECONDS_TOGETHER):
            store.add(waiting)
            last, waiting = time.monotonic(), []
    if waiting:
        store.add(waiting)
    return finished


@torch.no_grad()
def _encoded(
    model: RetrievalMethod, captioner: Captioner | None, loader: DataLoader, manifest: Manifest
) -> Iterator[tuple[Finished, Encoded | None]]:
    """Yield each video when it has been read completely, and its segments unless it is unusable."""
    parts: dict[str, list[tuple[Part, Tensor, Tensor, list[str]]]] = defaultdict(list)
    for part in loader:
        if isinstance(part, Part):
            counts = torch.tensor(list(map(len, part.times)))
            mask = (torch.arange(manifest.sampling.max_frames) < counts.unsqueeze(1)).long().to(model.device)
            tokens = model.frame_tokens(part.frames.to(model.device), mask)
            written = captioner.captions(part.frames, mask) if captioner else []
            parts[part.file].append((part, tokens.cpu(), vectors(model, tokens, mask, "video").cpu(), written))
            continue
        done = parts.pop(part.file, [])
        if part.reason:
            yield part, None
            continue
        read, tokens, pooled, written = zip(*done, strict=True)
        spans, times = ([item for some in read for item in getattr(some, name)] for name in ("spans", "times"))
        yield part, Encoded(spans, times, torch.cat(tokens), torch.cat(pooled), sum(written, []))


def _gathered(own: list[Finished]) -> list[Finished]:
    """The videos of all processes."""
    if world_size() == 1:
        return own
    parts: list[list[Finished]] = [[]] * world_size()
    dist.all_gather_object(parts, own)
    return [video for part in parts for video in part]
