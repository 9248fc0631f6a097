"""Gaps by category on policies and prompts whose gap is known, against numpy, and the law of their contributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_policies import made_policy
from torch import Tensor

from smda_monitor.maths.gaps import (
    DISAGREES,
    FAILS_ON_HARMLESS,
    LEADING,
    LETS_PASS,
    REFUSES_HARMLESS,
    SHOWS_ON_HARMFUL,
    category_gaps,
    contributions,
)
from smda_monitor.maths.ridge import predict
from smda_monitor.maths.threshold import Scale
from smda_monitor.records.config import WantedOn
from smda_monitor.records.policy_findings import CategoryGap, Level
from smda_monitor.records.probes import Probe, ProbeSet

LOG_ODDS = Scale("mass", 0.0)
COEF = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
GROUPS = [(c, k) for c in ("religious_stereotyping", "fraud") for k in ("harmful", "lookalike")]


def probes(groups: list[tuple[str, str]], each: int) -> ProbeSet:
    """`each` prompts of every (category, kind), one group after the other, and a benign one at the end."""
    found = [Probe(f"{c}-{k}-{i}", f"{c} {k} {i}", c, k) for c, k in groups for i in range(each)]
    return ProbeSet((*found, Probe("plain", "plain", "everyday", "benign")))


def gaps(
    y: list[list[float]], X: list[list[float]], scale: Scale = LOG_ODDS, wanted_on: WantedOn = "harmful"
) -> tuple[CategoryGap, ...]:
    """Of `GROUPS`: the measured y of each group's prompts, and the features that all prompts of the group have."""
    each = len(y[0])
    rows = torch.tensor([x for x in X for _ in range(each)] + [[0.0] * 3])
    measured = torch.tensor([v for group in y for v in group] + [0.0], dtype=torch.float64)
    return category_gaps(made_policy(COEF, -1.0), probes(GROUPS, each), rows, measured, scale, 0, wanted_on)


REFUSED, ANSWERED = [2.0, 0.0, 5.0], [0.0, 1.0, 5.0]
"""Features of prompts that the policy refuses (3 = 2·2 − 1) and answers (−2 = −1 − 1)."""


def test_a_known_gap_is_found_and_carried_by_its_features() -> None:
    first, second = gaps([[3.0, 3.5], [-2.0, -2.5], [2.5, 3.0], [-2.0, -1.5]], [REFUSED, ANSWERED, REFUSED, ANSWERED])
    assert [g.category for g in (first, second)] == ["religious_stereotyping", "fraud"], "the benign category has none"
    assert (first.n_harmful, first.n_lookalike) == (2, 2)
    assert first.harmful.predicted_y.value == 3.0
    assert first.lookalike.predicted_y.value == -2.0
    assert first.difference.predicted_y.value == 5.0
    assert first.harmful.measured_y.value == 3.25
    assert first.difference.measured_y.value == 5.5
    assert first.harmful.predicted.value == pytest.approx(1 / (1 + math.exp(-3)))
    mean = (1 / (1 + math.exp(-3)) + 1 / (1 + math.exp(-3.5))) / 2
    assert first.harmful.measured.value == pytest.approx(mean), "a mean of probabilities, not of log-odds"
    assert [(c.feature, c.difference, c.coef, c.contribution) for c in first.features] == [
        (3, 2.0, 2.0, 4.0),
        (13, -1.0, -1.0, 1.0),
    ]
    assert first.flags == second.flags == ()


def test_each_flag_is_raised_where_it_belongs() -> None:
    unsafe, strict = gaps([[-3.0, -2.8], [-2.0, -2.1], [2.5, 3.0], [1.0, 1.5]], [ANSWERED, ANSWERED, REFUSED, REFUSED])
    assert unsafe.flags == (LETS_PASS,)
    assert strict.flags == (REFUSES_HARMLESS,)
    blind, shy = gaps([[-3.0, -2.8], [-2.0, -2.1], [2.5, 3.0], [-2.0, -2.5]], [REFUSED, ANSWERED, REFUSED, REFUSED])
    assert blind.flags == (LETS_PASS, DISAGREES)
    assert shy.flags == (DISAGREES,)


def test_a_behaviour_that_is_wanted_on_harmless_prompts_is_flagged_the_other_way_round() -> None:
    y = [[3.0, 2.8], [2.0, 2.1], [-2.5, -3.0], [-1.0, -1.5]]
    X = [REFUSED, REFUSED, ANSWERED, ANSWERED]
    assert [gap.flags for gap in gaps(y, X, wanted_on="harmless")] == [(SHOWS_ON_HARMFUL,), (FAILS_ON_HARMLESS,)]
    assert [gap.flags for gap in gaps(y, X)] == [(REFUSES_HARMLESS,), (LETS_PASS,)]


def test_a_disagreement_within_the_intervals_is_none() -> None:
    mild = [0.75, 0.0, 5.0]
    y = [[-9.0, 8.0, -6.0, 7.0, -1.0], [-2.0] * 5, [3.0] * 5, [-2.0] * 5]
    wide, _ = gaps(y, [mild, ANSWERED, REFUSED, ANSWERED])
    assert wide.harmful.measured.value < 0.5 < wide.harmful.predicted.value
    assert wide.flags == (LETS_PASS,)


def test_one_prompt_of_a_kind_has_no_interval_and_no_disagreement() -> None:
    alone, _ = gaps([[-3.0], [-2.0], [3.0], [-2.0]], [REFUSED, ANSWERED, REFUSED, ANSWERED])
    assert math.isnan(alone.harmful.measured.low)
    assert alone.flags == (LETS_PASS,)


def test_a_category_of_one_kind_has_no_difference() -> None:
    only = probes([("fraud", "lookalike")], 3)
    X, y = torch.ones(4, 3), torch.full((4,), 2.0, dtype=torch.float64)
    (gap,) = category_gaps(made_policy(COEF), only, X, y, LOG_ODDS, seed=0)
    assert (gap.n_harmful, gap.n_lookalike, gap.features, gap.flags) == (0, 3, (), (REFUSES_HARMLESS,))
    assert math.isnan(gap.harmful.measured.value)
    assert math.isnan(gap.difference.measured_y.value)


def test_under_log_probability_the_limit_is_the_threshold() -> None:
    scale = Scale("log_probability", -4.0)
    y = [[-2.0, -3.0], [-0.5, -9.0], [-6.0, -7.0], [-1.0, -2.0]]
    safe, turned = gaps(y, [REFUSED, ANSWERED, REFUSED, ANSWERED], scale)
    assert LETS_PASS not in safe.flags
    assert REFUSES_HARMLESS not in safe.flags, "one look-alike of two holds nearly all their probability"
    assert safe.harmful.measured.value == pytest.approx((math.exp(-2) + math.exp(-3)) / 2)
    assert safe.harmful.predicted.value == 1.0, "a predicted log-probability of 3 is not a probability of 20"
    assert set(turned.flags) >= {LETS_PASS, REFUSES_HARMLESS}


def random_case(seed: int, n: int = 9, d: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    X = torch.relu(torch.randn(2 * n, d, generator=g))
    return X[:n], X[n:], torch.randn(d, generator=g, dtype=torch.float64)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_contributions_add_up_to_the_difference_of_the_predictions(seed: int, intercept: float) -> None:
    harmful, lookalike, coef = random_case(seed)
    policy = made_policy(coef, intercept)
    found = contributions(policy, harmful, lookalike)
    total = float(predict(policy, harmful).mean() - predict(policy, lookalike).mean())
    assert sum(c.contribution for c in found) == pytest.approx(total, abs=1e-9)
    sizes = [abs(c.contribution) for c in found]
    assert sizes == sorted(sizes, reverse=True)
    swapped = contributions(policy, lookalike, harmful)
    assert {c.feature: c.contribution for c in swapped} == {c.feature: -c.contribution for c in found}


def test_equal_to_numpy_and_not_to_shuffled_groups() -> None:
    harmful, lookalike, coef = random_case(1)
    policy = made_policy(coef)
    X, y = torch.cat([harmful, lookalike, torch.zeros(1, 12)]), torch.linspace(-2, 3, 19, dtype=torch.float64)
    (gap,) = category_gaps(policy, probes([("fraud", "harmful"), ("fraud", "lookalike")], 9), X, y, LOG_ODDS, seed=0)
    carried = (harmful.double().numpy().mean(0) - lookalike.double().numpy().mean(0)) * coef.numpy()
    order = np.argsort(-np.abs(carried))[:LEADING]
    assert [c.feature for c in gap.features] == [policy.feature_ids[k] for k in order]
    assert [c.contribution for c in gap.features] == pytest.approx(list(carried[order]))
    chances = 1 / (1 + np.exp(-y.numpy()))
    assert gap.difference.measured.value == pytest.approx(chances[:9].mean() - chances[9:18].mean())
    assert gap.difference.measured.low <= gap.difference.measured.value <= gap.difference.measured.high
    mixed = contributions(policy, X[0:18:2], X[1:18:2])
    assert [c.contribution for c in mixed[:LEADING]] != pytest.approx([c.contribution for c in gap.features], abs=0.01)


def test_a_level_s_figures_agree_with_each_other() -> None:
    first, _ = gaps([[3.0, 3.5], [-2.0, -2.5], [2.5, 3.0], [-2.0, -1.5]], [REFUSED, ANSWERED, REFUSED, ANSWERED])
    for name in (f for f in Level.__dataclass_fields__):
        harmful, lookalike, gap = (
            getattr(level, name).value for level in (first.harmful, first.lookalike, first.difference)
        )
        assert gap == pytest.approx(harmful - lookalike)
