"""Groups of rows compared: against pairs counted one by one, and on rows whose difference is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from smda_monitor.maths.interference import interference
from smda_monitor.maths.row_kinds import (
    NAMED_KINDS,
    OTHER,
    distribution,
    feature_contrasts,
    kind_interference,
    reads_harmful,
)
from smda_monitor.records.row_kinds import FeatureContrast

K = 4
FEATURES = [7, 3, 11, 5]
COEF = torch.tensor([0.5, -2.0, 1.0, 0.25], dtype=torch.float64)


def shifts(n: int, seed: int) -> Tensor:
    return torch.randn(n, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def harmful(n: int, seed: int) -> Tensor:
    found = torch.rand(n, generator=torch.Generator().manual_seed(seed + 100)) < 0.4
    found[0], found[1] = True, False
    return found


def by_name(found: tuple[FeatureContrast, ...]) -> dict[tuple[int, str], FeatureContrast]:
    return {(one.feature, one.pathway): one for one in found}


def test_every_pair_is_counted_and_p_is_that_of_the_normal_limit() -> None:
    n = 60
    X, Y, group = shifts(n, 0), shifts(n, 1).round(decimals=0), harmful(n, 0)
    found = by_name(feature_contrasts(FEATURES, COEF, X, Y, group))
    assert list(found) == [(feature, pathway) for feature in FEATURES for pathway in "XY"]
    for pathway, figures in (("X", X), ("Y", Y)):
        for k, feature in enumerate(FEATURES):
            one = found[feature, pathway]
            a, b = ((figures[:, k] * COEF[k])[which].numpy() for which in (group, ~group))
            pairs = a[:, None] - b[None, :]
            U = (pairs > 0).sum() + 0.5 * (pairs == 0).sum()
            assert U == one.U
            assert one.auroc == U / (len(a) * len(b))
            assert one.rank_biserial == pytest.approx(((pairs > 0).sum() - (pairs < 0).sum()) / pairs.size)
            counts = np.unique(np.concatenate([a, b]), return_counts=True)[1]
            ties = (counts**3 - counts).sum() / (n * (n - 1))
            spread = math.sqrt(len(a) * len(b) / 12 * (n + 1 - ties))
            p = 2 * norm.sf((abs(U - len(a) * len(b) / 2) - 0.5) / spread)
            assert one.p == pytest.approx(min(p, 1.0), rel=1e-9)
            assert (one.harmful.rows, one.harmless.rows) == (len(a), len(b))
            assert one.harmless.median == pytest.approx(float(np.median(b)))
            assert (one.harmful.q1, one.harmful.q3) == pytest.approx(tuple(np.quantile(a, [0.25, 0.75])))
            assert (one.harmful.p5, one.harmful.p95) == pytest.approx(tuple(np.quantile(a, [0.05, 0.95])))
            assert one.coefficient == float(COEF[k])


def test_p_is_corrected_over_the_features_of_one_pathway() -> None:
    found = feature_contrasts(FEATURES, COEF, shifts(40, 2), shifts(40, 3), harmful(40, 2))
    for pathway in "XY":
        own = [one for one in found if one.pathway == pathway]
        order = np.argsort([one.p for one in own])
        scaled = [own[i].p * K / rank for rank, i in enumerate(order, start=1)]
        for place, i in enumerate(order):
            assert own[i].p_adjusted == pytest.approx(min(1.0, *scaled[place:]))
        assert any(one.p_adjusted > one.p for one in own)


def test_a_difference_that_is_there_is_found_where_it_is() -> None:
    """Harmful rows push feature 1 up through features, and feature 2 down through outputs; nothing else differs."""
    n = 200
    X, Y, group = shifts(n, 4), shifts(n, 5), harmful(n, 4)
    X[group, 1] -= 1.5  # w is negative there, so ΔW·w goes up
    Y[group, 2] -= 1.5
    found = by_name(feature_contrasts(FEATURES, COEF, X, Y, group))
    assert {name for name, one in found.items() if one.p_adjusted < 0.01} == {(3, "X"), (11, "Y")}
    assert found[3, "X"].auroc == pytest.approx(norm.cdf(1.5 / math.sqrt(2)), abs=0.07)
    assert found[11, "Y"].rank_biserial < -0.5
    assert found[3, "X"].harmful.median > found[3, "X"].harmless.median


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 25), st.integers(0, 1000))
def test_groups_swapped_are_the_mirror_and_the_scale_does_not_matter(n: int, seed: int) -> None:
    X, Y, group = shifts(n, seed), shifts(n, seed + 1), harmful(n, seed)
    found = feature_contrasts(FEATURES, COEF, X, Y, group)
    mirror = feature_contrasts(FEATURES, COEF, X, Y, ~group)
    larger = feature_contrasts(FEATURES, COEF, 1e3 * X, 1e-6 * Y, group)
    for one, other, scaled in zip(found, mirror, larger, strict=True):
        assert one.auroc + other.auroc == pytest.approx(1.0)
        assert (one.p, one.harmful) == (pytest.approx(other.p), other.harmless)
        assert (scaled.U, scaled.p) == (one.U, pytest.approx(one.p))
        assert 0 <= one.p <= one.p_adjusted <= 1


def test_a_group_without_rows_and_figures_without_spread() -> None:
    X = shifts(9, 6)
    X[:, 0] = 0.0
    empty = feature_contrasts(FEATURES, COEF, X, X, torch.zeros(9, dtype=torch.bool))
    assert all(math.isnan(one.p) and math.isnan(one.p_adjusted) and math.isnan(one.U) for one in empty)
    assert (empty[0].harmful.rows, empty[0].harmless.rows) == (0, 9)
    assert math.isnan(empty[2].harmful.median)
    assert not math.isnan(empty[2].harmless.median)
    still = feature_contrasts(FEATURES, COEF, X, X, harmful(9, 6))[0]
    assert (still.auroc, still.p, still.rank_biserial) == (0.5, 1.0, 0.0)
    assert feature_contrasts([], COEF[:0], X[:, :0], X[:, :0], harmful(9, 6)) == ()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(0, 1000))
def test_a_column_sums_to_the_mean_interference_of_its_rows(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shift = shifts(n, seed)
    intended = torch.rand(n, K, generator=generator) < 0.5
    shift[0] = 0.0  # a row that moves nothing
    kinds = ["ab"[i % 2] for i in range(n)]
    unintended = torch.rand(n, generator=generator) < 0.3
    found = kind_interference(COEF, 0.3 * shift, 0.7 * shift, intended, unintended, kinds)
    assert sorted(one.kind for one in found) == sorted(set(kinds))
    for one in found:
        rows = [i for i in range(n) if kinds[i] == one.kind]
        expected = np.mean([interference(shift[i], COEF, intended[i]) for i in rows])
        assert one.interference == pytest.approx(float(expected))
        assert sum(one.by_feature) == pytest.approx(one.interference)
        assert one.rows == len(rows)
        assert one.unintended == pytest.approx(float(unintended[rows].double().mean()))


def test_a_matrix_by_hand() -> None:
    """|ΔW_k w_k| of two rows of one kind: (1, 2, 1, 0) with features 0 and 3 intended, (0, 0, 0, 4) with none."""
    shift = torch.tensor([[2.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 16.0]], dtype=torch.float64)
    intended = torch.tensor([[True, False, False, True], [False] * 4])
    (found,) = kind_interference(
        COEF, shift - 1, torch.ones_like(shift), intended, torch.tensor([True, True]), ["k", "k"]
    )
    assert found.by_feature == pytest.approx((0.0, 0.25, 0.125, 0.5))
    assert (found.interference, found.unintended, found.rows) == (pytest.approx(0.875), 1.0, 2)


def test_rare_kinds_are_one() -> None:
    kinds = [f"kind-{i}" for i in range(NAMED_KINDS) for _ in range(2)] + ["rare-1", "rare-2", "rare-3"]
    n = len(kinds)
    shift, none = shifts(n, 8), torch.zeros(n, K, dtype=torch.bool)
    found = kind_interference(COEF, shift, shift, none, none[:, 0], kinds)
    assert len(found) == NAMED_KINDS + 1
    assert [one.rows for one in found if one.kind == OTHER] == [3]
    assert sum(one.rows for one in found) == n


def test_quantiles_are_numpys() -> None:
    figures = shifts(31, 9)[:, 0]
    found = distribution(figures)
    assert (found.p5, found.q1, found.median, found.q3, found.p95) == pytest.approx(
        tuple(np.quantile(figures.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95]))
    )


def test_how_a_prompt_reads() -> None:
    """tanh of the prompt's reading r is expected of refusal; of what is wanted on harmless prompts −(1 + tanh r)/2."""
    reading = torch.tensor([-2.0, -0.1, 0.1, 2.0], dtype=torch.float64)
    expected = torch.tanh(reading)
    assert reads_harmful(expected).tolist() == [False, False, True, True]
    assert reads_harmful(-(1 + expected) / 2, "harmless").tolist() == [False, False, True, True]
    assert not reads_harmful(torch.tensor([math.nan], dtype=torch.float64)).item()
