"""Interference: constructed truths, an exhaustive search as reference, and its laws."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import make_account, make_policy, make_probes
from torch import Tensor

from smda_monitor.errors import ConfigError, MeasurementError
from smda_monitor.maths.interference import Pooled, dominant_feature, intended_features, interference
from smda_monitor.records.account import RowEntry


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ONES = vector(1, 1, 1, 1)
ROW = make_account(1, make_policy(make_probes())).rows[0]
sizes = st.floats(-1e3, 1e3, allow_nan=False).map(lambda size: size if abs(size) > 1e-9 else 0.0)
laws = settings(max_examples=60, deadline=None)
triples = st.integers(1, 8).flatmap(lambda d: st.tuples(*[st.lists(sizes, min_size=d, max_size=d)] * 3))


def test_constructed_truth() -> None:
    x, w = vector(9, 0, 1, 5), vector(1, 100, -2, 1)  # |x w| = 9, 0, 2, 5: 16 in all, 90 % is 14.4
    intended = intended_features(x, w)
    assert intended.tolist() == [True, False, True, True]
    assert intended_features(x, w, mass=0.875).tolist() == [True, False, False, True]  # 14 of 16, exactly
    assert intended_features(x, w, mass=1.0).tolist() == [True, False, True, True]
    delta_W = vector(1, -0.03, 0, 2)  # |ΔW w| = 1, 3, 0, 2
    assert interference(delta_W, w, intended) == pytest.approx(0.5)
    assert interference(delta_W, w, ~intended) == pytest.approx(0.5)
    assert dominant_feature(delta_W, w) == 1


def test_ends_of_the_range() -> None:
    inside = torch.tensor([True, True, False, False])
    assert interference(vector(1, -2, 0, 0), ONES, inside) == 0.0
    assert interference(vector(0, 0, 1, -2), ONES, inside) == 1.0


def test_zero_shift_and_zero_prediction() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    assert interference(zero, ONES, torch.zeros(4, dtype=torch.bool)) == 0.0
    assert interference(ONES, zero, torch.zeros(4, dtype=torch.bool)) == 0.0
    assert dominant_feature(zero, ONES) == -1
    assert dominant_feature(ONES, zero) == -1
    assert not bool(intended_features(zero, ONES).any())
    assert interference(ONES, ONES, intended_features(zero, ONES)) == 1.0, "a prompt without features intends nothing"


def test_extreme_sizes_neither_overflow_nor_vanish() -> None:
    for size in (1e-200, 1e200):
        delta_W = vector(1, 3, 0, 0) * size
        assert interference(delta_W, ONES * size, torch.tensor([True, False, False, False])) == pytest.approx(0.75)
        assert dominant_feature(delta_W, ONES * size) == 1


@laws
@given(triples)
def test_law_range_and_complement(triple: tuple[list[float], list[float], list[float]]) -> None:
    x, w, delta_W = (vector(*values) for values in triple)
    intended = intended_features(x, w)
    inside, outside = interference(delta_W, w, intended), interference(delta_W, w, ~intended)
    assert 0.0 <= inside <= 1.0
    assert inside + outside == pytest.approx(1.0 if bool((delta_W * w != 0).any()) else 0.0)
    top = dominant_feature(delta_W, w)
    assert top == -1 or float((delta_W * w).abs()[top]) == pytest.approx(float((delta_W * w).abs().max()))


@laws
@given(triples, st.sampled_from([0.3, 0.5, 0.9, 1.0]))
def test_law_the_intended_set_is_the_smallest(
    triple: tuple[list[float], list[float], list[float]], mass: float
) -> None:
    x, w = vector(*triple[0]), vector(*triple[1])
    parts = (x * w).abs().tolist()
    chosen = intended_features(x, w, mass).nonzero()[:, 0].tolist()
    slack = 1e-9 * sum(parts)
    assert sum(parts[k] for k in chosen) >= mass * sum(parts) - slack
    for smaller in combinations(range(len(parts)), max(len(chosen) - 1, 0)):
        assert not chosen or sum(parts[k] for k in smaller) <= mass * sum(parts) + slack


@laws
@given(triples, st.randoms(use_true_random=False), st.floats(0.01, 100))
def test_law_permutation_sign_and_scale(
    triple: tuple[list[float], list[float], list[float]], random: object, scale: float
) -> None:
    _, w, delta_W = (vector(*values) for values in triple)
    d = len(w)
    intended = torch.arange(d) % 2 == 0
    order = list(range(d))
    random.shuffle(order)  # type: ignore[attr-defined]
    value = interference(delta_W, w, intended)
    assert interference(delta_W[order], w[order], intended[order]) == pytest.approx(value, abs=1e-12)
    assert interference(-scale * delta_W, w, intended) == pytest.approx(value, abs=1e-9)
    top, moved = dominant_feature(delta_W, w), dominant_feature(delta_W[order], w[order])
    parts = (delta_W * w).abs()
    assert (top == -1) == (moved == -1)
    assert top == -1 or float(parts[order][moved]) == pytest.approx(float(parts[top]))


def test_the_set_follows_its_features() -> None:
    x, order = vector(9, 0, 1, 5), [2, 0, 3, 1]
    assert torch.equal(intended_features(x, ONES)[order], intended_features(x[order], ONES))


def test_among_equals_the_lower_columns() -> None:
    equal = torch.ones(1000, dtype=torch.float64)
    assert intended_features(equal, equal, mass=0.5).nonzero()[:, 0].tolist() == list(range(500))
    assert dominant_feature(equal, equal) == 0


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="mass"):
        intended_features(ONES, ONES, mass=0.0)
    for call in (intended_features, dominant_feature):
        with pytest.raises(MeasurementError, match="NaN or Inf"):
            call(vector(1, float("nan"), 0, 0), ONES)


def entry(absolute_shift: float, interference: float, unintended: bool, dominant_feature: int) -> RowEntry:
    changed = {"interference": interference, "unintended": unintended, "dominant_feature": dominant_feature}
    return replace(ROW, absolute_shift=absolute_shift, **changed)


parts = st.lists(
    st.tuples(st.lists(st.floats(-4, 4), min_size=3, max_size=3), st.integers(0, 7), st.booleans()),
    min_size=1,
    max_size=6,
)


def read(delta_W: Tensor, mask: int, unintended: bool) -> RowEntry:
    intended = torch.tensor([bool(mask >> k & 1) for k in range(3)])
    size, top = float(delta_W.abs().sum()), dominant_feature(delta_W, ONES[:3])
    return entry(size, interference(delta_W, ONES[:3], intended), unintended, top)


@laws
@given(parts)
def test_law_a_step_pools_its_rows_by_what_each_did(rows: list[tuple[list[float], int, bool]]) -> None:
    shifts = [vector(*shift) for shift, _, _ in rows]
    found = [read(shift, mask, unintended) for shift, (_, mask, unintended) in zip(shifts, rows, strict=True)]
    pooled = Pooled.of(found)
    whole = sum(float(shift.abs().sum()) for shift in shifts)
    outside = sum(
        abs(float(shift[k]))
        for shift, (_, mask, _) in zip(shifts, rows, strict=True)
        for k in range(3)
        if not mask >> k & 1
    )
    by_unintended = sum(float(s.abs().sum()) for s, (_, _, unintended) in zip(shifts, rows, strict=True) if unintended)
    if whole == 0:
        assert math.isnan(pooled.interference)
        assert math.isnan(pooled.unintended)
        assert pooled.dominant_feature == -1
    else:
        assert pooled.interference == pytest.approx(outside / whole)
        assert pooled.unintended == pytest.approx(by_unintended / whole)
        assert 0 <= pooled.interference <= 1
        assert 0 <= pooled.unintended <= 1
    apart = Pooled.of(found[:2]) + Pooled.of(found[2:])
    assert (apart.whole, apart.outside) == pytest.approx((pooled.whole, pooled.outside)), "steps add up to the run"


def test_a_large_row_outweighs_a_small_one() -> None:
    large, small = entry(9.0, 1.0, True, 5), entry(1.0, 0.0, False, 3)
    unread = entry(100.0, float("nan"), False, 7)
    pooled = Pooled.of([small, large, small, unread])
    assert (pooled.interference, pooled.unintended) == pytest.approx((9 / 11, 9 / 11))
    assert pooled.dominant_feature == 5
    assert Pooled.of([entry(1.0, 0.5, False, 8), entry(1.0, 0.5, False, 2)]).dominant_feature == 2, (
        "among equals the lower"
    )
