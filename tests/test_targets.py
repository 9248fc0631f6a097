"""Targets as linear functionals of what was measured: against the pathways' own formulas, and by hand."""

from __future__ import annotations

import pytest
import torch
from test_pathways import example
from torch import Tensor

from smda_monitor.maths.pathways import (
    PolicyFrame,
    feature_shift,
    output_shift,
    pair_score,
    score_cotangent_X,
    score_cotangent_y,
)
from smda_monitor.maths.targets import TargetPlan, plan_targets
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

KINDS = ["benign", "harmful", "harmful", "lookalike", "benign", "harmful", "lookalike"]
M, D = len(KINDS), 9


def snapshot(X: Tensor, y: Tensor, mass: Tensor, contrast: Tensor) -> Snapshot:
    ids = tuple(f"p{i}" for i in range(len(y)))
    return Snapshot(1, ids, X.float(), y, mass, contrast, torch.zeros(len(y), 2), DictionaryHealth(0.1, 1.0, 0.0))


def planned(reading: str = "mass") -> tuple[TargetPlan, Tensor]:
    weights = torch.arange(1, M + 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    C = torch.randn(M, D, generator=generator, dtype=torch.float64)
    g = torch.randn(M, generator=generator, dtype=torch.float64)
    return plan_targets(KINDS, weights, C, g, reading), weights


def random_snapshot(seed: int) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)
    y, mass, contrast = torch.randn(3, M, generator=generator, dtype=torch.float64)
    return snapshot(torch.rand(M, D, generator=generator), y, mass, contrast)


def test_names_stand_in_the_order_of_kinds() -> None:
    plan, _ = planned()
    assert plan.names == (
        "S_X", "S_Y", "mass.harmful", "mass.lookalike", "mass.benign",
        "contrast.harmful", "contrast.lookalike", "contrast.benign",
    )  # fmt: skip
    some = plan_targets(["benign", "harmful"], torch.ones(2).double(), *_pair(), "mass")
    assert some.names == ("S_X", "S_Y", "mass.harmful", "mass.benign", "contrast.harmful", "contrast.benign")
    assert some.n_kinds == 2
    assert some.kind_weights.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def _pair() -> tuple[Tensor, Tensor]:
    return torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)


def test_kinds_are_weighted_means() -> None:
    plan, weights = planned()
    before, after = random_snapshot(1), random_snapshot(2)
    shift = dict(zip(plan.names, plan.measure(before, after).tolist(), strict=True))
    for kind in ("harmful", "lookalike", "benign"):
        here = [j for j, k in enumerate(KINDS) if k == kind]
        total = sum(float(weights[j]) for j in here)
        for reading in ("mass", "contrast"):
            moved = getattr(after, reading) - getattr(before, reading)
            expected = sum(float(weights[j] * moved[j]) for j in here) / total
            assert shift[f"{reading}.{kind}"] == pytest.approx(expected, rel=1e-12)
            assert abs(expected - float(moved[here].mean())) > 1e-3, "weights matter"


@pytest.mark.parametrize("intercept", [True, False])
def test_the_scores_are_the_pathways_pair_scores(intercept: bool) -> None:
    policy, rows, delta_X, delta_y, weights = example((14, 9), intercept)
    frame = PolicyFrame.of(policy)
    kinds = ["harmful", "benign"] * (len(rows) // 2) + ["benign"] * (len(rows) % 2)
    cotangents = score_cotangent_X(frame, rows, weights), score_cotangent_y(frame, rows, weights)
    plan = plan_targets(kinds, weights, *cotangents, "mass")
    X, zero = policy.X[rows], torch.zeros(len(rows), dtype=torch.float64)
    moved = (X.double() + delta_X).float()
    measured = plan.measure(snapshot(X, zero, zero, zero), snapshot(moved, delta_y, zero, zero))
    delta_X = moved.double() - X.double()
    assert measured[0].item() == pytest.approx(pair_score(feature_shift(frame, rows, delta_X, weights), frame.w))
    assert measured[1].item() == pytest.approx(pair_score(output_shift(frame, rows, delta_y, weights), frame.w))
    assert abs(float(measured[0])) > 1e-6


def test_consecutive_accounts_add_up() -> None:
    plan, _ = planned()
    one, two, three = (random_snapshot(seed) for seed in (1, 2, 3))
    total = plan.measure(one, two) + plan.measure(two, three)
    assert torch.allclose(total, plan.measure(one, three), rtol=1e-12, atol=1e-12)
    assert torch.allclose(plan.measure(two, one), -plan.measure(one, two), rtol=1e-12)
    assert not bool(plan.measure(one, one).any())


def test_a_policy_on_the_log_probability_reads_its_own_y() -> None:
    """dy = (1 − P) dmass for S_Y alone; the kinds' means are of the log-odds in any preset."""
    P = torch.linspace(0.01, 0.99, M, dtype=torch.float64)
    mass, probability = planned("mass")[0], planned("log_probability")[0]
    assert torch.equal(mass.mass_weights(1 - P)[0], mass.cotangent_y)
    assert torch.allclose(probability.mass_weights(1 - P)[0], probability.cotangent_y * (1 - P))
    assert torch.equal(mass.mass_weights(1 - P)[1:], mass.kind_weights)
    assert torch.equal(probability.mass_weights(1 - P)[1:], probability.kind_weights)
    # A small change of the log-odds, measured in both.
    odds = torch.log(P) - torch.log1p(-P)
    step = 1e-6 * torch.randn(M, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    moved = torch.nn.functional.logsigmoid(odds + step) - torch.nn.functional.logsigmoid(odds)
    expected = float(probability.cotangent_y @ moved)
    assert float(probability.mass_weights(1 - P)[0] @ step) == pytest.approx(expected, rel=1e-4)
