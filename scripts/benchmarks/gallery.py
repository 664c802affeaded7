"""An index of random segments, and queries whose nearest segment is known.

D width. Segments and queries are drawn around topics, about 50 segments around each; two of a topic have a cosine of
about 0.6. Tokens are the segment's vector plus random noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from scripts.searching.about import Manifest
from scripts.searching.rows import column, schema
from scripts.searching.store import Store

OF_A_TOPIC = 50
SPREAD = 0.8
"""Distance of a segment from its topic, whose length is 1."""
BLOCK, OF_A_VIDEO = 10_000, 100


@dataclass
class Queries:
    """Random queries, and the nearest segment of each among those that were seen.

    Attributes:
        vectors: (n, D), of length 1.
        best: (n,) largest inner product so far.
        nearest: (n,) number of that segment.
    """

    vectors: np.ndarray
    best: np.ndarray = field(init=False)
    nearest: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.best = np.full(len(self.vectors), -np.inf, np.float32)
        self.nearest = np.zeros(len(self.vectors), np.int64)

    def see(self, first: int, vectors: np.ndarray) -> None:
        """Compare with segments whose numbers start at `first`."""
        products = self.vectors @ vectors.T
        place, value = products.argmax(axis=1), products.max(axis=1)
        better = value > self.best
        self.best, self.nearest = np.where(better, value, self.best), np.where(better, first + place, self.nearest)


def fill(store: Store, manifest: Manifest, width: int, segments: int, queries: int) -> Queries:
    """Make an index of random segments, and draw queries."""
    draw = np.random.default_rng(0)
    topics = _unit(draw.standard_normal((max(1, segments // OF_A_TOPIC), width), np.float32))
    drawn = Queries(_around(topics, queries, draw))
    store.create(manifest, width)
    for first, vectors in _blocks(topics, segments, draw):
        drawn.see(first, vectors.astype(np.float32))
        store.add([_rows(first, vectors, manifest, draw)])
    store.tidy(fresh=True)
    return drawn


def _blocks(topics: np.ndarray, segments: int, draw: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, segments, BLOCK):
        yield first, _around(topics, min(BLOCK, segments - first), draw).astype(np.float16)


def _around(topics: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Unit vectors (count, D) around random topics."""
    apart = draw.standard_normal((count, topics.shape[1]), np.float32) * (SPREAD / topics.shape[1] ** 0.5)
    return _unit(topics[draw.integers(len(topics), size=count)] + apart)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _rows(first: int, vectors: np.ndarray, manifest: Manifest, draw: np.random.Generator) -> pa.Table:
    """Rows of random segments."""
    count, frames = len(vectors), manifest.sampling.max_frames
    fields = schema(manifest, vectors.shape[1])
    numbers = np.arange(first, first + count)
    scales = np.tile(np.array([0.8, 0.05 / 2**manifest.bits], np.float16), (count, frames))
    columns = {
        "video": [f"{number:08}.mp4" for number in numbers // OF_A_VIDEO], "number": numbers % OF_A_VIDEO,
        "start": numbers % OF_A_VIDEO * 12.0, "end": numbers % OF_A_VIDEO * 12.0 + 12, "size": [1] * count,
        "changed": [1] * count, "content": ["0" * 64] * count, "duration": [1200.0] * count, "caption": [""] * count,
        "tags": [[]] * count, "date": [None] * count, "frames": [frames] * count, "vector": vectors,
        "times": np.tile(np.arange(frames, dtype=np.float32), (count, 1)), "scales": scales,
        "tokens": _tokens(vectors, fields.field("tokens").type, frames, draw),
    }  # fmt: skip
    return pa.table([column(columns[field.name], field.type) for field in fields], schema=fields)


def _tokens(vectors: np.ndarray, kind: pa.DataType, frames: int, draw: np.random.Generator) -> np.ndarray:
    if kind.value_type == pa.uint8():
        return np.frombuffer(draw.bytes(len(vectors) * kind.list_size), np.uint8)
    noise = draw.standard_normal((len(vectors), frames, vectors.shape[1]), np.float32)
    return (vectors[:, None] + noise / vectors.shape[1] ** 0.5).astype(np.float16)
