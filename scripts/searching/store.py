"""The table of an index in LanceDB, in a folder or at an address such as s3://bucket/path.

D width.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfRq

from scripts.searching.about import FORMAT, Manifest
from scripts.searching.rows import IDENTITY, schema
from utils.errors import InputError, one_line
from utils.files import claim_folder, remove
from utils.schema import validated
from utils.texts import parse_json

SEGMENTS, ABOUT = "segments", "about"
ANN_ROWS = 50_000
"""Number of rows from which an inverted file with quantised vectors is used; fewer are searched exhaustively."""
PROBES, REFINED = 256, 2
"""Partitions of the inverted file that a query searches, and rows compared exactly as a multiple of the result."""
GRACE = timedelta(hours=1)
"""Time for which files of an earlier state are kept for processes that read them."""
CLAUSES = 200
EARLIER_FILES = r"manifest\.json|[0-9a-f]{64}\.safetensors"
REBUILD = "run scripts/search.py index with --rebuild"


class Store:
    """An index.

    Args:
        address: a folder, or an address that LanceDB knows.
    """

    def __init__(self, address: str | Path):
        self.address = str(address)
        self.folder = None if "://" in self.address else Path(address)
        self._earlier = self.folder is not None and (self.folder / "manifest.json").exists()

    def claim(self, videos: Path) -> None:
        """Mark the folder as the project's own; in the folder of the videos, or with other files, it is refused."""
        if self.folder is not None:
            claim_folder(self.folder, "index", apart_from=[videos], flag="--index")

    def manifest(self) -> Manifest | None:
        """The manifest of the index; None if there is none.

        Raises:
            InputError: it is of another version or damaged.
        """
        if self._earlier:
            raise InputError(f"{self.address}: is an index of an earlier version; {REBUILD} to make it again")
        if self.folder is not None and not self.folder.is_dir():
            return None
        with self._reported():
            if not {SEGMENTS, ABOUT} <= set(self._connection.list_tables(limit=1000).tables):
                return None
            (text,) = self._connection.open_table(ABOUT).to_arrow()["json"].to_pylist()
            values = parse_json(text, self.address)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"{self.address}: is not of version {FORMAT}; {REBUILD}")
        return validated(Manifest, values, self.address, REBUILD)

    def create(self, manifest: Manifest, width: int) -> None:
        """Make an empty index, replacing an earlier one; D is `width`."""
        if self._earlier:
            for path in (*(self.folder / "videos").glob("*"), self.folder / "manifest.json"):
                remove(path, EARLIER_FILES)
            self._earlier = False
        with self._reported():
            for name in (ABOUT, SEGMENTS):  # even damaged ones; overwriting would read them
                self._connection.drop_table(name, ignore_missing=True)
            self._connection.create_table(SEGMENTS, schema=schema(manifest, width))
        self.write_manifest(manifest)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        with self._reported():
            row = pa.table({"json": [manifest.model_dump_json()]})
            self._connection.create_table(ABOUT, row, mode="overwrite")

    def videos(self, *columns: str) -> list[dict]:
        """Name and identity of every video, and other columns of its first segment."""
        with self._reported():
            query = self._table().search().where("number = 0").select(["video", *IDENTITY, *columns])
            return query.limit(None).to_arrow().to_pylist()

    def add(self, rows: Iterable[pa.Table]) -> None:
        """Add the rows of some videos, all or none."""
        with self._reported():
            self._table().add(pa.concat_tables(rows))

    def update(self, condition: str, values: dict) -> None:
        """Update columns of the rows that satisfy a condition in SQL."""
        with self._reported():
            self._table().update(condition, values)

    def delete(self, conditions: list[str]) -> None:
        """Remove the rows that satisfy any of the conditions."""
        with self._reported():
            for first in range(0, len(conditions), CLAUSES):
                self._table().delete(" OR ".join(f"({clause})" for clause in conditions[first : first + CLAUSES]))

    def tidy(self, *, fresh: bool = False) -> None:
        """Merge small files and, from `ANN_ROWS` on, update the inverted file.

        Files of earlier states are removed after `GRACE`; those of a `fresh` index, which has no readers yet, at once.
        """
        with self._reported():
            table = self._table()
            rows = table.count_rows()
            if rows >= ANN_ROWS and not table.list_indices():
                partitions = 2 ** round(np.log2(rows) / 2)  # about the square root
                config = IvfRq(distance_type="dot", num_partitions=partitions, max_iterations=10, sample_rate=64)
                table.create_index("vector", config=config)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that nobody may read it now
                table.optimize(cleanup_older_than=timedelta(0) if fresh else GRACE)

    def check(self, manifest: Manifest, width: int) -> None:
        """Refuse a table without the columns of its manifest, or without rows; D is `width`."""
        with self._reported():
            found = self._table().schema
            if dict(zip(found.names, found.types, strict=True)) != {
                field.name: field.type for field in schema(manifest, width)
            }:
                raise ValueError("has other columns than its manifest says")
            if not self._table().count_rows():
                raise InputError(f"{self.address}: holds no video yet; run scripts/search.py index again")

    def count(self, condition: str | None = None) -> int:
        """Number of segments."""
        with self._reported():
            return self._table().count_rows(condition)

    def nearest(self, vector: np.ndarray, count: int, condition: str | None, columns: list[str]) -> pa.Table:
        """The rows whose vectors have the largest inner products with `vector` (D,), the largest first.

        Args:
            vector: float32.
            count: number of rows.
            condition: on rows, in SQL; None: all.
            columns: of the result.

        Raises:
            InputError: the index is damaged, or the condition is wrong.
        """
        with self._reported("--where" if condition else ""):
            query = self._table().search(vector, vector_column_name="vector").distance_type("dot")
            query = query.nprobes(PROBES).refine_factor(REFINED).limit(count).select([*columns, "_distance"])
            return (query.where(condition, prefilter=True) if condition else query).to_arrow()

    @cached_property
    def _connection(self) -> lancedb.DBConnection:  # it keeps what was read of the inverted file
        return lancedb.connect(self.address)

    def _table(self) -> lancedb.table.Table:
        return self._connection.open_table(SEGMENTS)

    @contextmanager
    def _reported(self, part: str = "") -> Iterator[None]:
        """Turn the engine's errors into an InputError."""
        try:
            yield
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, pa.ArrowException) as error:
            reason = one_line(error, 200)
            raise InputError(f"{self.address}: {part or 'index'}: {reason}; correct it, or {REBUILD}") from error


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
