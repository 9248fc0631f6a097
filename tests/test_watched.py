"""Watched features' shifts: linear functionals held against the whole shift, and against one written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pathways import example, make_policy

from smda_monitor.maths.account import policy_shift
from smda_monitor.maths.pathways import PolicyFrame, feature_shift, output_shift, score_cotangent_X
from smda_monitor.maths.watched import WatchedShifts, cheaper_way, drifting_features, leading_features
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

WATCHED = [6, 0, 3]


@settings(max_examples=12, deadline=None)
@given(st.booleans(), st.sampled_from([(14, 9), (9, 14)]), st.integers(0, 1000))
def test_both_pathways_are_the_whole_shifts_columns(intercept: bool, shape: tuple[int, int], seed: int) -> None:
    policy, rows, delta_X, delta_y, weights = example(shape, intercept, seed)
    frame = PolicyFrame.of(policy)
    found = WatchedShifts.of(frame, rows, weights, WATCHED)
    m = len(rows)
    truth_X, truth_Y = feature_shift(frame, rows, delta_X, weights), output_shift(frame, rows, delta_y, weights)
    through_features = found.through_features(delta_X, range(m))
    assert torch.allclose(through_features, truth_X[WATCHED], rtol=1e-8, atol=1e-10)
    assert torch.allclose(found.through_output(delta_y[None])[0], truth_Y[WATCHED], rtol=1e-8, atol=1e-10)
    assert not torch.allclose(through_features, truth_X[[0, 3, 6]], rtol=0.01), "the order counts"
    # Additive over probes and linear, in any order of them.
    order = np.random.default_rng(seed).permutation(m).tolist()
    parts = [found.through_features(3 * delta_X[part], part) for part in (order[:2], order[2:])]
    assert torch.allclose(parts[0] + parts[1], 3 * through_features, rtol=1e-8, atol=1e-10)
    some = found.part(slice(1, 3)).through_features(delta_X, range(m))
    assert torch.allclose(some, through_features[1:])


def test_replays_give_the_whole_shift_of_each_row() -> None:
    policy, rows, delta_X, _, weights = example((14, 9), True)
    frame = PolicyFrame.of(policy)
    after = policy.X[rows].double() + delta_X
    without = [after - scale * delta_X.roll(k, 0) for k, scale in enumerate((1.0, -0.5, 0.0))]
    found = WatchedShifts.of(frame, rows, weights, WATCHED).by_replay(after, iter(without))
    truth = [feature_shift(frame, rows, after - one, weights)[WATCHED] for one in without]
    assert torch.allclose(found, torch.stack(truth), rtol=1e-8, atol=1e-10)
    assert float(found[1].abs().max()) > 1e-3


@pytest.mark.parametrize("intercept", [True, False])
def test_the_score_is_the_weighted_sum_of_all_features(intercept: bool) -> None:
    policy, rows, delta_X, _, weights = example((14, 9), intercept)
    frame = PolicyFrame.of(policy)
    found = WatchedShifts.of(frame, rows, weights, range(9)).through_features(delta_X, range(len(rows)))
    score = (score_cotangent_X(frame, rows, weights) * delta_X).sum()
    assert float(found @ frame.w) == pytest.approx(float(score), rel=1e-9)


def test_a_linear_toy_policy_by_hand() -> None:
    """X two orthogonal columns of squared length 4, no intercept, alpha 1: U = 5·I, w = Xᵀy/5. Probe 1 alone moves
    feature 0 by ε: ΔW_X = (ε r_1 e_0 − ε w_0 X_1)/5."""
    X = torch.tensor([[1.0, 1], [1, -1], [1, 1], [1, -1]])
    y = torch.tensor([3.0, -1, 2, 2], dtype=torch.float64)
    policy = make_policy(X, y, intercept=False, alpha=1.0)
    assert policy.coef.tolist() == pytest.approx([6 / 5, 4 / 5])
    found = WatchedShifts.of(PolicyFrame.of(policy), torch.tensor([1, 2]), torch.ones(2).double(), [1, 0])
    residual, epsilon = -1 - (6 / 5 - 4 / 5), 0.5
    shift = found.through_features(torch.tensor([[epsilon, 0], [0, 0]]).double(), range(2)).tolist()
    assert shift == pytest.approx([epsilon * 1.2 / 5, (epsilon * residual - epsilon * 1.2) / 5])
    # Δy of probe 1: ΔW_Y = X_1 Δy/5.
    assert found.through_output(torch.tensor([[2.0, 0]]).double())[0].tolist() == pytest.approx([-2 / 5, 2 / 5])


def test_leading_and_drifting() -> None:
    policy, *_ = example((14, 9), True)
    size = np.abs(policy.coef.numpy()) * policy.X.double().numpy().std(axis=0)
    assert (
        leading_features(policy, 4)
        == np.argsort(-size)[:4].tolist()
        != np.argsort(-np.abs(policy.coef.numpy()))[:4].tolist()
    )
    assert leading_features(policy, 0) == []
    assert sorted(leading_features(policy, 99)) == list(range(9))
    drift, coef = torch.tensor([0.1, -5.0, 0, 2, 1]), torch.tensor([30.0, 1, 9, -1, 1], dtype=torch.float64)
    assert drifting_features(drift, coef, 2, []) == [1, 0]
    assert drifting_features(drift, coef, 2, [1]) == [0, 3]
    assert drifting_features(drift, coef, 9, [1]) == [0, 3, 4], "what did not move is not drifting"


def test_the_cheaper_way_counts_a_backward_twice() -> None:
    ways = [cheaper_way(rows, 4) for rows in (1, 8, 9, 500)]
    assert ways == ["replay", "replay", "backward", "backward"]


def test_shifts_of_chosen_columns_are_those_of_the_leading_ones() -> None:
    policy, rows, delta_X, delta_y, weights = example((14, 9), True)
    ids = tuple(f"p{i}" for i in range(len(rows)))

    def snapshot(X: torch.Tensor, y: torch.Tensor) -> Snapshot:
        return Snapshot(0, ids, X.float(), y, y, y, y[:, None], DictionaryHealth(0.1, 1.0, 0.0))

    before = snapshot(policy.X[rows], policy.y[rows])
    after = snapshot(before.X.double() + delta_X, before.y + delta_y)
    frame = PolicyFrame.of(policy)
    shift = policy_shift(policy, frame, rows, weights, before, after)
    leading = shift.leading(9)
    assert {one.feature: one for one in leading} == dict(zip(range(9), shift.of(range(9)), strict=True))
    assert [one.feature for one in shift.of(WATCHED)] == WATCHED
