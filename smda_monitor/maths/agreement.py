"""How well estimates agree with the exact figures of the same rows: in rank, in size and in sign.

    relative error = |estimate − exact| / |exact|,     sign: both on the same side of zero

The one place for it: the self-audit (`fidelity`), an audit by gradient beside its replays, their pages, the benchmarks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FEWEST = 3
"""Pairs from which a rank correlation is given."""


def agreement(estimates: Sequence[float], exact: Sequence[float]) -> dict[str, float]:
    """``spearman`` of the two, and ``relative_error``, the `median` of `relative_errors`."""
    return {"spearman": spearman(estimates, exact), "relative_error": median(relative_errors(estimates, exact))}


def closeness(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]], seconds: Sequence[float], exactly: Sequence[float]
) -> dict[str, Any]:
    """Of several figures of the same n rows, by name (estimates, exact): the rank correlation of each under its name,
    ``relative_error`` by name, ``rows`` n, and ``times_faster``: the mean of the seconds that a row took `exactly` over
    that of the `seconds` that one took otherwise; NaN where no time was measured."""
    found = {name: agreement(*pair) for name, pair in pairs.items()}
    took = statistics.fmean(seconds)
    return {
        **{name: one["spearman"] for name, one in found.items()},
        "relative_error": {name: one["relative_error"] for name, one in found.items()},
        "rows": len(exactly),
        "times_faster": statistics.fmean(exactly) / took if took > 0 else math.nan,
    }


def spearman(estimates: Sequence[float], exact: Sequence[float], fewest: int = FEWEST) -> float:
    """Rank correlation, in [−1, 1]; NaN for fewer than `fewest` pairs, or where one side does not vary."""
    if len(exact) < fewest or len(set(estimates)) == 1 or len(set(exact)) == 1:
        return math.nan
    from scipy.stats import spearmanr

    return float(spearmanr(estimates, exact).statistic)


def relative_error(estimate: float, exact: float) -> float:
    """Of one pair, ≥ 0; NaN where `exact` is 0."""
    return abs(estimate - exact) / abs(exact) if exact != 0 else math.nan


def relative_errors(estimates: Sequence[float], exact: Sequence[float]) -> list[float]:
    """Of every pair whose exact figure is not 0, in their order; ≥ 0."""
    return [relative_error(a, b) for a, b in zip(estimates, exact, strict=True) if b != 0]


def same_sign(estimates: Sequence[float], exact: Sequence[float]) -> float:
    """Share of pairs of the same sign, in [0, 1]; 0 has none. NaN without a pair."""
    # Compared, not multiplied: the product of two small figures may underflow.
    same = [a != 0 and b != 0 and (a > 0) == (b > 0) for a, b in zip(estimates, exact, strict=True)]
    return statistics.fmean(same) if same else math.nan


def median(values: Iterable[float]) -> float:
    """Their median; NaN without a value."""
    found = list(values)
    return statistics.median(found) if found else math.nan
