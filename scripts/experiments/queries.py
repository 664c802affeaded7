"""Comparison of two runs query by query, from their predictions.jsonl, with significance tests.

Q queries.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import stats

from utils.errors import InputError
from utils.schema import Settings, validated
from utils.texts import parse_json, read_text

RESAMPLES = 9999
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "R@1": lambda ranks: 100.0 * (ranks <= 1),
    "R@5": lambda ranks: 100.0 * (ranks <= 5),
    "R@10": lambda ranks: 100.0 * (ranks <= 10),
    "mean rank": lambda ranks: ranks.astype(float),
}
"""Value of a query's rank in a mean over the queries."""
REMEDY = "give the output folder of an evaluation by main_retrieval.py"


class FoundVideo(Settings):
    """A video of a ranking; `levels` if the method mixes several."""

    video: str
    score: float
    levels: dict[str, float] = {}


class Query(Settings):
    """A line of predictions.jsonl, with ranks from 1."""

    query: str
    rank: Annotated[int, Field(ge=1)]
    video_rank: Annotated[int, Field(ge=1)]
    true: FoundVideo
    found: list[FoundVideo]


def read_queries(folder: str | Path) -> list[Query]:
    """Read the predictions of a retrieval run.

    Raises:
        InputError: there are none, or a line is malformed.
    """
    path, queries = Path(folder) / "predictions.jsonl", []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        queries.append(validated(Query, parse_json(line, path, number), f"{path}, line {number}", REMEDY))
    if not queries:
        raise InputError(f"{path}: is empty; {REMEDY}")
    return queries


def paired_ranks(first: list[Query], second: list[Query]) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (Q,) of both runs, whose queries must be the same, in the same order.

    Raises:
        InputError: they are not.
    """
    pairs = [[(query.query, query.true.video) for query in run] for run in (first, second)]
    if pairs[0] != pairs[1]:
        raise InputError("--queries: the runs have other queries or true videos; evaluate both on the same test split")
    return tuple(np.array([query.rank for query in run]) for run in (first, second))


def difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Mean of `second` minus mean of `first`, (Q,) each, of the same queries.

    Returns:
        "first", "second" and "difference"; "low" and "high", a 95 % interval by a bootstrap over queries; "p",
        two-sided, by a randomisation test that exchanges the runs for each query.
    """
    change = second - first
    means = {"first": first.mean().item(), "second": second.mean().item(), "difference": change.mean().item()}
    if not change.any():
        return {**means, "low": 0.0, "high": 0.0, "p": 1.0}
    options = {"n_resamples": RESAMPLES, "vectorized": True, "batch": 100}
    interval = stats.bootstrap(
        (change,), np.mean, method="percentile", random_state=np.random.default_rng(0), **options
    ).confidence_interval
    test = stats.permutation_test(
        (change,), np.mean, permutation_type="samples", random_state=np.random.default_rng(0), **options
    )
    return {**means, "low": float(interval.low), "high": float(interval.high), "p": float(test.pvalue)}
