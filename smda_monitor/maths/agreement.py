"""How close cheap figures come to exact ones, row by row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def agreement(cheap: Sequence[float], exact: Sequence[float]) -> dict[str, float]:
    """``spearman``, the rank correlation of the two, in [−1, 1], NaN for fewer than three rows or where one side is
    constant; ``relative_error``, the median of |cheap − exact|/|exact| over rows whose exact figure is not 0."""
    from scipy.stats import spearmanr

    errors = [abs(a - b) / abs(b) for a, b in zip(cheap, exact, strict=True) if b != 0]
    ranked = len(exact) >= 3 and len(set(cheap)) > 1 and len(set(exact)) > 1
    return {
        "spearman": float(spearmanr(cheap, exact).statistic) if ranked else math.nan,
        "relative_error": statistics.median(errors) if errors else math.nan,
    }
