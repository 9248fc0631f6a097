"""Evidence of drift: its mean under the null, looking often raises no more false alarms, and what is there is found."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smda_monitor.maths.drift import (
    SINGLY,
    bounds,
    expected_log_e,
    fewest,
    leading,
    likely_rate,
    log_bound,
    log_e_value,
    log_evidence,
    singly_judged,
    spread_within,
)
from smda_monitor.maths.intent import FEATURES, unintended
from smda_monitor.records.alerts_config import DriftIntent

TOLERANCE = 0.5
SIZES = st.lists(st.floats(0, 1e6), min_size=1, max_size=7)
OTHERS = st.none() | st.floats(1e-6, 1e6)


@given(SIZES, OTHERS)
def test_at_the_edge_of_the_null_its_mean_over_all_signs_is_one(sizes: list[float], rate: float | None) -> None:
    edge, size = torch.full((len(sizes),), TOLERANCE).double(), torch.tensor(sizes).double()
    values = [
        math.exp(log_e_value(edge + size * torch.tensor(signs), 1.0, TOLERANCE, rate))
        for signs in itertools.product((-1.0, 1.0), repeat=len(sizes))
    ]
    assert sum(values) / len(values) == pytest.approx(1.0, abs=1e-9)


@given(SIZES, st.floats(0, 10), OTHERS)
def test_inside_the_null_its_mean_is_no_larger(sizes: list[float], inside: float, rate: float | None) -> None:
    centre, size = torch.full((len(sizes),), TOLERANCE - inside).double(), torch.tensor(sizes).double()
    values = [
        math.exp(log_e_value(centre + size * torch.tensor(signs), 1.0, TOLERANCE, rate))
        for signs in itertools.product((-1.0, 1.0), repeat=len(sizes))
    ]
    assert sum(values) / len(values) <= 1.0 + 1e-9


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.integers(0, 19), st.floats(0, 1e3))
def test_more_drift_of_any_witness_is_no_less_evidence(drift: list[float], at: int, more: float) -> None:
    before = torch.tensor(drift).double()
    after = before.clone()
    after[at % len(drift)] += more
    less, found = log_e_value(before, 1.0, TOLERANCE), log_e_value(after, 1.0, TOLERANCE)
    assert found >= less - 1e-9
    assert found <= len(drift) * math.log(2) + 1e-9
    assert log_e_value(-before, -1.0, TOLERANCE) == less, "down is up with the sign turned"


def test_it_is_the_plain_formula() -> None:
    drift = torch.tensor([0.9, 0.1, 1.7], dtype=torch.float64)
    bets = [
        math.prod(1 + math.tanh(rate / TOLERANCE * (float(d) - TOLERANCE)) for d in drift)
        for rate in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
    ]
    assert log_e_value(drift, 1.0, TOLERANCE) == pytest.approx(math.log(sum(bets) / 8), rel=1e-12)
    bold = math.prod(1 + math.tanh(1.3 * (float(d) - TOLERANCE)) for d in drift)
    both = log_e_value(drift, 1.0, TOLERANCE, rate=1.3)
    assert both == pytest.approx(math.log(sum(bets) / 16 + bold / 2), rel=1e-12)


def test_the_likely_rate_keeps_three_quarters_of_the_growth_and_more_where_others_scatter_less() -> None:
    draw = torch.Generator().manual_seed(0)
    drift = TOLERANCE + 0.1 + 0.25 * torch.randn(4000, generator=draw, dtype=torch.float64)
    others, witnesses = drift[:1000], drift[1000:]
    beyond = float(others.mean()) - TOLERANCE
    rate = likely_rate(others, 0.25, 1.0, TOLERANCE)
    assert rate == pytest.approx(beyond / (0.25**2 + beyond**2) / 2)

    def growth(at: float | None) -> float:
        assert at is not None
        return float((1 + torch.tanh(at * (witnesses - TOLERANCE))).log().sum())

    best = max(growth(0.05 * i) for i in range(1, 200))
    assert growth(rate) == pytest.approx(0.75 * best, rel=0.1)
    bold = likely_rate(others, 0.25 / 2, 1.0, TOLERANCE)
    assert growth(bold) > 0.9 * best, "that the others scatter half as far does no harm"
    assert growth(2 * rate) > 0.9 * best > growth(4 * rate), "but twice the best would"
    assert likely_rate(-others, 0.25, -1.0, TOLERANCE) == pytest.approx(rate)
    assert likely_rate(others, 0.25, -1.0, TOLERANCE) is None


def test_a_drift_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        log_e_value(torch.tensor([0.0, math.nan]).double(), 1.0, TOLERANCE)


def test_what_is_to_be_expected_of_witnesses() -> None:
    drift = torch.tensor([0.9, 1.3], dtype=torch.float64)  # 0.6 beyond the tolerance
    beyond = 0.6 - 0.35 / math.sqrt(2)
    expected = expected_log_e(drift, 0.35, 30, 1.0, TOLERANCE)
    assert expected == pytest.approx(30 * (beyond / 0.35) ** 2 / 2 - math.log(8))
    assert expected_log_e(-drift, 0.35, 30, -1.0, TOLERANCE) == expected
    assert expected_log_e(drift, 0.35, 30, -1.0, TOLERANCE) == -math.inf
    assert expected_log_e(drift, 9.0, 30, 1.0, TOLERANCE) == -math.inf, "it may be chance"
    assert expected_log_e(drift, 0.0, 30, 1.0, TOLERANCE) == pytest.approx(30 * math.log(2) - math.log(8))
    normal = 1.1 + 0.35 * torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = log_e_value(normal, 1.0, TOLERANCE)
    assert found == pytest.approx(expected_log_e(normal, 0.35, 4000, 1.0, TOLERANCE), rel=0.5), "about what is found"


def test_looks_are_weighted_by_their_number() -> None:
    assert log_evidence([], []) == -math.inf
    assert log_evidence([math.log(10), math.log(30)], [1, 2]) == pytest.approx(math.log(10 / 2 + 30 / 6))
    assert log_evidence([5000.0], [3]) == pytest.approx(5000 - math.log(12)), "no overflow"
    assert sum(1 / (k * (k + 1)) for k in range(1, 10_000)) < 1


def test_the_fewest_witnesses_are_just_enough() -> None:
    for false_alarm, directions in ((0.01, 3), (0.05, 6), (0.5, 1)):
        bound = log_bound(false_alarm, directions)
        least = fewest(bound)
        all_far = torch.full((least,), 1e9, dtype=torch.float64)
        assert log_evidence([log_e_value(all_far, 1.0, TOLERANCE)], [1]) >= bound - 1e-9
        assert log_evidence([log_e_value(all_far[1:], 1.0, TOLERANCE)], [1]) < bound


def test_categories_with_witnesses_enough_share_half_of_the_false_alarm() -> None:
    intent: dict[str, DriftIntent] = {"harmful": "up", "lookalike": "down", "benign": "down", FEATURES: "still"}
    kinds: dict[str, int] = {"harmful": 40, "lookalike": 40, "benign": 0, FEATURES: 80}
    whole = bounds(intent, kinds, 0.02)
    assert set(whole) == set(unintended({"harmful": "up", "lookalike": "down", FEATURES: "still"})), "no benign ones"
    assert set(whole.values()) == {log_bound(0.02, 4)}
    found = bounds(intent, kinds | {"harmful.fraud": 30, "harmful.malware": 2, "lookalike.fraud": 38}, 0.02)
    parts = {d.of: bound for d, bound in found.items() if "." in d.of}
    assert parts == {of: pytest.approx(log_bound(0.01, 2)) for of in ("harmful.fraud", "lookalike.fraud")}
    assert {d.of: d.sign for d in found if "." in d.of} == {"harmful.fraud": -1.0, "lookalike.fraud": 1.0}
    assert sum(math.exp(-bound) for bound in found.values()) == pytest.approx(0.02), "together no more than asked"
    assert bounds(intent, kinds | {"harmful.fraud": 5}, 0.02) == whole
    declared = bounds(intent | {"harmful.fraud": "still"}, kinds | {"harmful.fraud": 30, "lookalike.fraud": 38}, 0.02)
    assert [(d.of, d.sign) for d in declared if "." in d.of] == [
        ("harmful.fraud", -1.0),
        ("harmful.fraud", 1.0),
        ("lookalike.fraud", 1.0),
    ]


def test_the_features_judged_singly() -> None:
    coef = torch.tensor([5.0, 0.2, -3.0, 0.0, 1.0], dtype=torch.float64)
    x = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    assert singly_judged(coef, x) == [2, 4, 1], "not what the policy rests on, nor what it does not read"
    many = torch.linspace(1, 2, 40, dtype=torch.float64)
    assert singly_judged(many, torch.zeros(40)) == list(range(39, 39 - SINGLY, -1))


def test_spread_is_within_groups_and_leading_features_go_one_way() -> None:
    groups = [torch.tensor([1.0, 3.0]).double(), torch.tensor([50.0]).double(), torch.tensor([8.0, 8.0]).double()]
    assert spread_within(groups) == pytest.approx(math.sqrt(2 / 5))
    drift = torch.tensor([0.1, -3.0, 0.4, 0.0, 0.2, 0.3, 0.5, 0.6]).double()
    assert leading(drift, 1.0) == [7, 6, 2, 5, 4]
    assert leading(drift, -1.0) == [1]


WITNESSES, SCREENED, STEPS, RUNS = 37, 11, 40, 1000


def runs(kind: str, mean: float, seed: int) -> Tensor:
    """(runs, steps, prompts) drifts since the start of prompts drawn anew for every run. Each goes its own way, a
    random walk around a common course that ends at `mean` and stays there."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(RUNS, STEPS, WITNESSES + SCREENED, generator=generator, dtype=torch.float64) * 0.15
    if kind == "heavy":
        steps = steps / torch.rand(RUNS, 1, WITNESSES + SCREENED, generator=generator, dtype=torch.float64)
    if kind == "skewed":  # nearly all a little up, very few far down; the mean stays
        down = torch.rand(RUNS, 1, WITNESSES + SCREENED, generator=generator) < 0.03
        return torch.where(down, -0.5 * 0.97 / 0.03, 0.5).double() + mean + 0.1 * steps
    course = mean * torch.linspace(0.2, 3, STEPS, dtype=torch.float64).clamp(max=1)
    return steps.cumsum(1) + course[:, None]


def evidence(drifts: Tensor, apart: bool) -> Tensor:
    """(runs,) log evidence at the end: looks wherever the screened prompts' mean (or all prompts') is beyond."""
    found = []
    for run in drifts:
        witnesses = run[:, SCREENED:] if apart else run
        log_e: list[float] = []
        chances: list[int] = []
        for step, now in enumerate(run):
            others = now[:SCREENED]
            if float((others if apart else now).mean()) > TOLERANCE:
                rate = likely_rate(others, float(others.std()), 1.0, TOLERANCE) if apart else None
                log_e.append(log_e_value(witnesses[step], 1.0, TOLERANCE, rate))
                chances.append(len(chances) + 1 if apart else step + 1)
        found.append(log_evidence(log_e, chances))
    return torch.tensor(found, dtype=torch.float64)


def alarms(found: Tensor, false_alarm: float) -> float:
    """The share of runs with an alarm; evidence never falls, so that its end says whether there ever was one."""
    return float((found >= log_bound(false_alarm, 1)).double().mean())


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("kind", ["walk", "heavy"])
def test_looking_at_every_step_raises_no_more_false_alarms_than_asked(kind: str, apart: bool) -> None:
    drifts = runs(kind, TOLERANCE, seed=1)
    looked = (drifts[:, :, :SCREENED].mean(2) > TOLERANCE).any(1).double().mean()
    assert looked > 0.7, "nearly all runs are looked at, most of them often"
    found = evidence(drifts, apart)
    for false_alarm in (0.05, 0.2):
        error = math.sqrt(false_alarm * (1 - false_alarm) / RUNS)
        assert alarms(found, false_alarm) <= false_alarm + 2 * error


def test_a_drift_beyond_the_tolerance_is_found() -> None:
    assert alarms(evidence(runs("walk", 3 * TOLERANCE, seed=2)[:200], apart=True), 0.01) > 0.95
    assert alarms(evidence(runs("walk", 0.0, seed=2)[:200], apart=True), 0.01) == 0


def test_where_the_assumption_breaks() -> None:
    """Prompts so few that a draw may miss them hold the mean within the tolerance; all others are beyond it."""
    assert alarms(evidence(runs("skewed", TOLERANCE, seed=3)[:200], apart=True), 0.01) > 0.1
