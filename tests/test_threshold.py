"""The threshold against scikit-learn's ROC curve and a constructed truth; y as probability."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve
from torch import Tensor

from smda_monitor.maths.threshold import Scale, best_split


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def youden(y: Tensor, harmful: Tensor, cut: float) -> float:
    above = (y > cut).double()
    return float(above[harmful].mean() - above[~harmful].mean())


def test_a_clean_split_is_found_midway() -> None:
    y, harmful = doubles(-9, -8, -2, -1, -12), torch.tensor([False, False, True, True, False])
    assert best_split(y, harmful) == -5.0


def test_it_does_not_follow_the_larger_group() -> None:
    """One harmful prompt among many: plain accuracy would put the cut above everything."""
    y = torch.cat([torch.linspace(-12, -4, 50, dtype=torch.float64), doubles(-5.0, -4.5)])
    harmful = torch.tensor([False] * 50 + [True, True])
    cut = best_split(y, harmful)
    assert -6 < cut < -5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-8, 8), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_of_the_roc_curve_is_better(rows: list[tuple[int, bool]]) -> None:
    y, harmful = doubles(*(value for value, _ in rows)), torch.tensor([flag for _, flag in rows])
    cut = best_split(y, harmful)
    if bool(harmful.all()) or not bool(harmful.any()) or len(y.unique()) < 2:
        assert cut == float(y.median())
        return
    false_rate, true_rate, _ = roc_curve(harmful.numpy(), y.numpy(), drop_intermediate=False)
    inner = [t - f for t, f in zip(true_rate, false_rate, strict=True)][1:-1]
    assert youden(y, harmful, cut) == pytest.approx(max(inner), abs=1e-12)
    assert cut not in y.tolist()


def test_log_odds_need_no_choice() -> None:
    y, harmful = doubles(-9, -8, -2, -1), torch.tensor([False, False, True, True])
    scale = Scale.of("mass", y, harmful)
    assert (scale.threshold, scale.limit) == (0.0, 0.5)
    assert scale.probability(doubles(0, math.log(3), -800)).tolist() == pytest.approx([0.5, 0.75, 0.0])


def test_log_probabilities_are_split_by_kind() -> None:
    y, harmful = doubles(-9, -8, -2, -1), torch.tensor([False, False, True, True])
    scale = Scale.of("log_probability", y, harmful)
    assert scale.threshold == -5.0
    assert scale.limit == -5.0
    assert scale.probability(doubles(0.7, 0, math.log(0.2))).tolist() == pytest.approx([1.0, 1.0, 0.2])
