"""A figure with its percentile bootstrap interval: prompts drawn with replacement, the figure taken anew each time.

    (low, high) = the 2.5 % and 97.5 % quantiles of statistic(x*) over `RESAMPLES` resamples x*

By scipy's ``bootstrap``. Percentiles rather than BCa: BCa has no answer where the figure does not vary, and a category
of prompts that are all refused is an answer. On five prompts the interval is a little too narrow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from ..records.policy_findings import Estimate

RESAMPLES = 2000
"""Resamples of an interval: enough for its ends to hold to about a thirtieth of its width."""


Statistic = Callable[..., NDArray[np.float64]]
"""``statistic(*samples, axis=…)``: a figure of one or several samples along `axis`; other axes are kept."""


def estimate(
    statistic: Statistic, *samples: Float64[Tensor, " _"], seed: int, paired: bool = False, resamples: int = RESAMPLES
) -> Estimate:
    """`statistic` of `samples` with its interval, in the statistic's units.

    `paired`: the samples are of the same prompts, which are drawn together; else each is drawn by itself. Calls with
    one `seed` and the same number of prompts draw the same prompts. No global random state is touched. NaN throughout
    where a sample is empty; an interval of NaN where one has a single prompt.
    """
    arrays = [sample.numpy() for sample in samples]
    fewest = min(array.size for array in arrays)
    if fewest == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    value = float(statistic(*arrays, axis=-1))
    if fewest == 1:
        return Estimate(value, float("nan"), float("nan"))
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings():
        # An interval of NaN is documented above; scipy warns of it.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
            arrays,
            statistic,
            n_resamples=resamples,
            vectorized=True,
            paired=paired,
            axis=-1,
            confidence_level=0.95,
            method="percentile",
            random_state=np.random.default_rng(seed),
        ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def mean(*samples: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The mean of a sample, or of the first less that of the second."""
    first, *others = (sample.mean(axis=axis) for sample in samples)
    return np.asarray(first - others[0] if others else first)


def r2(*samples: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """`ridge.r_squared` of (y, prediction): 1 − Σ(y − prediction)² / Σ(y − ȳ)²; NaN where y does not vary."""
    y, prediction = samples
    total = np.square(y - y.mean(axis=axis, keepdims=True)).sum(axis=axis)
    missed = np.square(y - prediction).sum(axis=axis)
    return np.asarray(1.0 - np.divide(missed, total, out=np.full_like(missed, np.nan), where=total > 0))
