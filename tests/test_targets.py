"""Targets as linear functionals of what was measured: against the pathways' own formulas, and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_pathways import example
from torch import Tensor

from smda_monitor.maths.pathways import (
    PolicyFrame,
    feature_shift,
    output_shift,
    score_cotangent_X,
    score_cotangent_y,
)
from smda_monitor.maths.targets import TargetPlan, plan_targets
from smda_monitor.records.account import READINGS, is_leading
from smda_monitor.records.probes import Probe
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

KINDS = ["benign", "harmful", "harmful", "lookalike", "benign", "harmful", "lookalike"]
CATEGORIES = ["cooking", "fraud", "privacy", "fraud", "cooking", "fraud", "privacy"]
M, D = len(KINDS), 9


def probes(kinds: list[str], categories: list[str] | None = None) -> list[Probe]:
    named = categories or ["general"] * len(kinds)
    return [Probe(f"p{i}", f"prompt {i}", c, k) for i, (k, c) in enumerate(zip(kinds, named, strict=True))]


def snapshot(X: Tensor, y: Tensor, mass: Tensor, contrast: Tensor) -> Snapshot:
    ids = tuple(f"p{i}" for i in range(len(y)))
    return Snapshot(1, ids, X.float(), y, mass, contrast, torch.zeros(len(y), 2), DictionaryHealth(0.1, 1.0, 0.0))


def planned(reading: str = "mass") -> tuple[TargetPlan, Tensor]:
    weights = torch.arange(1, M + 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    C = torch.randn(M, D, generator=generator, dtype=torch.float64)
    g = torch.randn(M, generator=generator, dtype=torch.float64)
    w = torch.randn(D, generator=generator, dtype=torch.float64)
    return plan_targets(probes(KINDS, CATEGORIES), weights, C, g, w, reading), weights


def random_snapshot(seed: int) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)
    y, mass, contrast = torch.randn(3, M, generator=generator, dtype=torch.float64)
    return snapshot(torch.rand(M, D, generator=generator), y, mass, contrast)


GROUPS = (
    "harmful", "lookalike", "benign",
    "harmful.fraud", "harmful.privacy", "lookalike.fraud", "lookalike.privacy",
)  # fmt: skip
"""The kinds in their order, then the categories of those that have several; benign prompts are all of one."""


def test_names_stand_in_the_order_of_readings_and_groups() -> None:
    plan, _ = planned()
    assert plan.names[:2] == ("S_X", "S_Y")
    assert set(plan.names[2:]) == {f"{reading}.{group}" for reading in READINGS for group in GROUPS}
    assert [n for n in plan.names if is_leading(n)][2:] == [f"{r}.{k}" for r in READINGS for k in GROUPS[:3]]
    assert len(plan.names) == 2 + len(READINGS) * len(plan.groups)
    some = plan_targets(probes(["benign", "harmful"]), torch.ones(2).double(), *_cotangents(), "mass")
    assert some.names == (
        "S_X", "S_Y", "mass.harmful", "mass.benign", "contrast.harmful", "contrast.benign",
        "explained.harmful", "explained.benign",
    )  # fmt: skip
    assert some.groups.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def _cotangents() -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), torch.zeros(3).double()


def shifts(before: Snapshot, after: Snapshot, plan: TargetPlan) -> dict[str, Tensor]:
    """By reading, of every probe, from the snapshots alone."""
    moved = {name: getattr(after, name) - getattr(before, name) for name in ("mass", "contrast")}
    return {**moved, "explained": (after.X.double() - before.X.double()) @ plan.coef}


def test_kinds_and_categories_are_weighted_means() -> None:
    plan, weights = planned()
    before, after = random_snapshot(1), random_snapshot(2)
    measured = dict(zip(plan.names, plan.measure(before, after).tolist(), strict=True))
    by_probe = shifts(before, after, plan)
    assert torch.allclose(plan.measure_probes(before, after), torch.stack([by_probe[r] for r in READINGS]))
    for group in GROUPS:
        kind, _, category = group.partition(".")
        here = [j for j in range(M) if KINDS[j] == kind and category in ("", CATEGORIES[j])]
        total = sum(float(weights[j]) for j in here)
        for reading, moved in by_probe.items():
            expected = sum(float(weights[j] * moved[j]) for j in here) / total
            assert measured[f"{reading}.{group}"] == pytest.approx(expected, rel=1e-12)
            assert len(here) == 1 or abs(expected - float(moved[here].mean())) > 1e-3, "weights matter"


def test_a_kind_is_the_weighted_sum_of_its_categories() -> None:
    plan, weights = planned()
    measured = dict(zip(plan.names, plan.measure(random_snapshot(1), random_snapshot(2)).tolist(), strict=True))
    for kind in ("harmful", "lookalike"):
        sizes = {c: sum(float(weights[j]) for j in range(M) if (KINDS[j], CATEGORIES[j]) == (kind, c))
                 for c in ("fraud", "privacy")}  # fmt: skip
        for reading in READINGS:
            parts = sum(size * measured[f"{reading}.{kind}.{c}"] for c, size in sizes.items()) / sum(sizes.values())
            assert measured[f"{reading}.{kind}"] == pytest.approx(parts, rel=1e-12)


@pytest.mark.parametrize("intercept", [True, False])
def test_the_scores_are_the_pathways_pair_scores(intercept: bool) -> None:
    policy, rows, delta_X, delta_y, weights = example((14, 9), intercept)
    frame = PolicyFrame.of(policy)
    kinds = ["harmful", "benign"] * (len(rows) // 2) + ["benign"] * (len(rows) % 2)
    cotangents = score_cotangent_X(frame, rows, weights), score_cotangent_y(frame, rows, weights)
    plan = plan_targets(probes(kinds), weights, *cotangents, frame.w, "mass")
    X, zero = policy.X[rows], torch.zeros(len(rows), dtype=torch.float64)
    moved = (X.double() + delta_X).float()
    measured = plan.measure(snapshot(X, zero, zero, zero), snapshot(moved, delta_y, zero, zero))
    delta_X = moved.double() - X.double()
    assert measured[0].item() == pytest.approx(float(feature_shift(frame, rows, delta_X, weights) @ frame.w))
    assert measured[1].item() == pytest.approx(float(output_shift(frame, rows, delta_y, weights) @ frame.w))
    assert abs(float(measured[0])) > 1e-6


def test_consecutive_accounts_add_up() -> None:
    plan, _ = planned()
    one, two, three = (random_snapshot(seed) for seed in (1, 2, 3))
    total = plan.measure(one, two) + plan.measure(two, three)
    assert torch.allclose(total, plan.measure(one, three), rtol=1e-12, atol=1e-12)
    assert torch.allclose(plan.measure(two, one), -plan.measure(one, two), rtol=1e-12)
    assert not bool(plan.measure(one, one).any())


def test_targets_are_weighted_sums_of_columns() -> None:
    """Columns are S_X, then mass, contrast and x·w of every probe; what a cause does to them says what it does to all
    targets."""
    plan, _ = planned()
    before, after = random_snapshot(1), random_snapshot(2)
    before = replace(before, y=before.mass)
    after = replace(after, y=after.mass)
    weights = plan.weights(before.saturation)
    assert weights.shape == (len(plan.names), 1 + 3 * M)
    moved = shifts(before, after, plan)
    s_X = (plan.cotangent_X * (after.X.double() - before.X.double())).sum()
    columns = torch.cat([s_X[None], moved["mass"], moved["contrast"], moved["explained"]])
    assert torch.allclose(weights @ columns, plan.measure(before, after), rtol=1e-12)
    assert torch.equal(plan.delta_y(columns[None], before.saturation)[0], moved["mass"])


def test_a_policy_on_the_log_probability_reads_its_own_y() -> None:
    """dy = (1 − P) dmass for S_Y alone; the groups' means are of the log-odds in any preset."""
    P = torch.linspace(0.01, 0.99, M, dtype=torch.float64)
    mass, probability = planned("mass")[0].weights(1 - P), planned("log_probability")[0].weights(1 - P)
    plan = planned("log_probability")[0]
    here = slice(1, 1 + M)
    assert torch.equal(mass[1, here], plan.cotangent_y)
    assert torch.allclose(probability[1, here], plan.cotangent_y * (1 - P))
    rest = [k for k in range(len(plan.names)) if k != 1]
    assert torch.equal(mass[rest], probability[rest])
    assert torch.equal(mass[2 : 2 + len(plan.groups), here], plan.groups)
    assert not bool(mass[1, M + 1 :].any())
    assert not bool(mass[1:, 0].any())
    # A small change of the log-odds, measured in both.
    odds = torch.log(P) - torch.log1p(-P)
    step = 1e-6 * torch.randn(M, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    moved = torch.nn.functional.logsigmoid(odds + step) - torch.nn.functional.logsigmoid(odds)
    expected = float(plan.cotangent_y @ moved)
    assert float(probability[1, here] @ step) == pytest.approx(expected, rel=1e-4)
    columns = torch.cat([torch.zeros(1).double(), step, torch.ones(2 * M).double()])[None]
    assert torch.allclose(plan.delta_y(columns, 1 - P)[0], moved, rtol=1e-4)
    assert torch.equal(planned("mass")[0].delta_y(columns, 1 - P)[0], step)


def test_saturation_is_what_is_left_of_probability() -> None:
    P = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
    odds = torch.log(P) - torch.log1p(-P)
    found = snapshot(torch.zeros(3, D), odds, odds, odds).saturation
    assert torch.allclose(found, 1 - P, rtol=1e-12)
