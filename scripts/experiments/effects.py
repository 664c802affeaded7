"""Effects of one variant against another, paired over seeds and queries.

S seeds, Q queries.
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats

from scripts.experiments.captions import caption_outcomes

RESAMPLES = 9999


def outcomes(folder: Path) -> dict[str, np.ndarray]:
    """Value of each query (Q,) of a finished run by measure: whether it is right, or a score."""
    ranks, predictions = folder / "ranks.npz", folder / "predictions.jsonl"
    if ranks.is_file():
        with np.load(ranks, allow_pickle=False) as arrays:
            return {f"{name} R@1": arrays[name] == 0 for name in arrays.files}
    if predictions.is_file():
        answered = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
        return {"top-1": np.array([each["top5"][0][0] == each["truth"] for each in answered])}
    return caption_outcomes(folder)


def paired_effect(first: np.ndarray, second: np.ndarray) -> dict:
    """Mean difference of two variants, in points of a percentage.

    Args:
        first: (S, Q), values of each query, see `outcomes`.
        second: (S, Q), the same for the other variant.

    Returns:
        "effect"; "interval", 95 % by a bootstrap over seeds and queries; "p_seeds" and "p_queries", by randomisation
            tests that exchange the variants for each seed or each query; "seeds", their number. With a single seed the
            interval does not cover other trainings, and "p_seeds" is None.
    """
    difference = 100.0 * (first.astype(float) - second)
    sampled = difference if len(difference) > 1 else difference[0]
    draws = np.random.default_rng(0)
    interval = stats.bootstrap(
        tuple(map(np.arange, sampled.shape)),
        lambda *drawn: sampled[np.ix_(*drawn)].mean(),
        vectorized=False,
        n_resamples=RESAMPLES // 5,
        method="percentile",
        random_state=draws,
    ).confidence_interval

    def exchanged(means: np.ndarray) -> float:
        test = stats.permutation_test(
            (means,),
            lambda x, axis: x.mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=RESAMPLES // 10,
            random_state=draws,
        )
        return float(test.pvalue)

    return {
        "effect": float(difference.mean()),
        "interval": [float(interval.low), float(interval.high)],
        "p_seeds": exchanged(difference.mean(axis=1)) if len(difference) > 1 else None,
        "p_queries": exchanged(difference.mean(axis=0)),
        "seeds": len(difference),
    }
