"""The account of a step, put together from figures that are known by hand."""

from __future__ import annotations

from dataclasses import replace
from math import atanh, inf, isnan, nan, tanh

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pathways import example, make_policy
from torch import Tensor

from smda_monitor.maths.account import (
    OwnReading,
    RowFacts,
    balances,
    by_probe,
    mean_drift,
    past_shares,
    policy_shift,
    row_entries,
    unread,
)
from smda_monitor.maths.pathways import PolicyFrame, exact_refit, feature_shift, output_shift
from smda_monitor.maths.read_split import Read, SplitReading
from smda_monitor.maths.readings import Readings
from smda_monitor.maths.score import scores
from smda_monitor.records.account import READINGS, FeatureShift, PastShare, RowEntry, TargetBalance
from smda_monitor.records.policy import SymbolicPolicy
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

NAMES = ("S_X", "S_Y")
M = 2
"""Measured probes."""


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def reading(n: int = 3, seed: int = 0) -> SplitReading:
    """Any figures of `n` rows and of two earlier ones on both targets and the columns of two probes."""
    generator = torch.Generator().manual_seed(seed)

    def read(rows: int) -> Read:
        targets = torch.randn(rows, len(NAMES), generator=generator, dtype=torch.float64)
        columns = torch.randn(rows, 1 + len(READINGS) * M, generator=generator, dtype=torch.float64)
        return Read(targets, columns)

    shares, push, history, decay = read(n), read(n), read(1), read(1)
    past = torch.randn(2, len(NAMES), generator=generator, dtype=torch.float64)
    return SplitReading(shares, push, history, decay, past, torch.full((n,), nan).double())


def on_targets(targets: Tensor) -> Read:
    return Read(targets, torch.zeros(len(targets), 1 + len(READINGS) * M).double())


def facts(n: int = 3, tokens: int = 5) -> list[RowFacts]:
    return [RowFacts(f"row-{i}", f"{i:016x}", tokens + i, 1.5 * i, 2.0 + i) for i in range(n)]


def policy(coef: Tensor) -> SymbolicPolicy:
    """A policy with the given coefficients and feature ids that are not their columns."""
    d = len(coef)
    made = make_policy(torch.rand(6, d, generator=torch.Generator().manual_seed(0)), t(*range(6)), True)
    return replace(made, coef=coef, intercept=0.5, feature_ids=tuple(100 - 7 * k for k in range(d)))


def test_a_replayed_row_pushes_its_own_prompt_by_what_it_gains() -> None:
    def read(contrast: Tensor, mass: Tensor) -> Readings:
        return Readings(torch.zeros(2, 3).double(), -mass.exp(), mass, contrast)

    X = torch.rand(2, 4)
    found = OwnReading.of(read(t(1, -2), t(0.5, 3)), read(t(1.5, -5), t(9, 9)), X, t(1, -1))
    assert found.push.tolist() == [0.5, -3.0]
    assert found.mass.tolist() == [0.5, 3.0], "before the row's step"
    assert torch.equal(found.X, X.double())
    assert found.expected.tolist() == [1.0, -1.0]


def test_balances_by_hand() -> None:
    shares = on_targets(torch.stack([t(1.0, -2.0), t(-0.5, 4.0)]))
    history, decay = on_targets(t(0.2, 0)[None]), on_targets(t(0.1, -1)[None])
    past = torch.stack([t(0.3, 1.0), t(-0.15, -1.0), t(0.0, 0.5)])
    parts = SplitReading(shares, shares, history, decay, past, t(0, 0))
    one, two = balances(NAMES, t(0.9, 0.5), parts)
    assert (one.target, two.target) == NAMES
    assert (one.measured, one.shares, one.history, one.decay) == pytest.approx((0.9, 0.5, 0.2, 0.1))
    assert one.absolute_shares == pytest.approx(1.5)
    assert one.unexplained == pytest.approx(0.1)
    assert one.unexplained_fraction == pytest.approx(0.1 / 1.8)
    assert two.unexplained == pytest.approx(0.5 - (2 - 1))
    assert two.unexplained_fraction == pytest.approx(0.5 / 7)
    assert (one.handed, one.absolute_handed) == pytest.approx((0.15, 0.45))
    assert (two.handed, two.absolute_handed) == pytest.approx((0.5, 2.5))


def test_figures_by_probe_by_hand() -> None:
    """Columns are S_X and then each reading's probes, one reading after the other."""
    parts = reading()
    measured = torch.arange(len(READINGS) * M, dtype=torch.float64).reshape(len(READINGS), M)
    found = by_probe(measured, parts)
    assert list(found) == [f"{r}.{part}" for r in READINGS for part in ("measured", "history", "decay")]
    for i, name in enumerate(READINGS):
        here = slice(1 + i * M, 1 + (i + 1) * M)
        assert found[f"{name}.measured"] == tuple(measured[i].tolist())
        assert found[f"{name}.history"] == tuple(parts.history.columns[0, here].tolist())
        assert found[f"{name}.decay"] == tuple(parts.decay.columns[0, here].tolist())


def test_past_shares_are_on_leading_targets_alone() -> None:
    names = ("S_X", "mass.harmful", "mass.harmful.fraud")
    owners = [(3, facts(2)[0]), (4, facts(2)[1])]
    found = past_shares(owners, names, torch.stack([t(1, 2, 3), t(4, 5, 6)]))
    assert found == (
        PastShare("row-0", f"{0:016x}", 3, {"S_X": 1.0, "mass.harmful": 2.0}),
        PastShare("row-1", f"{1:016x}", 4, {"S_X": 4.0, "mass.harmful": 5.0}),
    )
    assert past_shares([], names, torch.zeros(0, 3).double()) == ()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6), st.floats(-5, 5))
def test_every_balance_balances(n: int, seed: int, leftover: float) -> None:
    parts = reading(n, seed)
    explained = parts.shares.targets.sum(0) + parts.history.targets[0] + parts.decay.targets[0]
    for k, found in enumerate(balances(NAMES, explained + leftover, parts)):
        total = found.shares + found.history + found.decay + found.unexplained
        assert total == pytest.approx(found.measured, abs=1e-12)
        assert found.unexplained == pytest.approx(leftover, abs=1e-12)
        assert found.absolute_shares >= abs(found.shares) - 1e-12
        assert found.shares == pytest.approx(sum(parts.shares.targets[:, k].tolist()))
        assert found.history == float(parts.history.targets[0, k]), "what was handed on is still in it"
        assert found.handed == pytest.approx(sum(parts.past[:, k].tolist()))


def test_fraction_of_nothing() -> None:
    assert TargetBalance("S_X", 0.0, 0.0, 0.0, 0.0, 0.0).unexplained_fraction == 0
    assert TargetBalance("S_X", 0.5, 0.5, 0.5, 0.0, 0.5).unexplained_of_measured == 1
    assert TargetBalance("S_X", 0.0, 0.5, 0.0, 0.0, 0.5).unexplained_of_measured == inf
    assert TargetBalance("S_X", 0.0, 0.0, 0.0, 0.0, 0.0).unexplained_of_measured == 0
    assert TargetBalance("S_X", 1.0, 0.0, 0.0, 0.0, 0.0).unexplained_fraction == inf


def entries(own: OwnReading, shift: Tensor, coef: Tensor) -> tuple[RowEntry, ...]:
    n = len(own.push)
    parts = reading(n)
    return row_entries(7, facts(n), NAMES, parts.shares, parts.push, shift, own, policy(coef))


def test_a_row_by_hand() -> None:
    """w = (1, −2, 0.5); own prompt (3, 0, 2): parts 3, 0, 1 of 4, so columns 0 and 2 carry 90 %."""
    coef = t(1.0, -2.0, 0.5)
    own = OwnReading(t(0.3, -0.6), t(-1.0, 2.0), torch.stack([t(3, 0, 2), t(0, 2, 0)]), t(0.9, -0.8))
    shift = torch.stack([t(0.1, 0.3, -0.2), t(0.0, 0.4, 0.2)])  # |ΔW w|: 0.1, 0.6, 0.1 and 0, 0.8, 0.1
    one, two = entries(own, shift, coef)
    assert (one.step, one.row_id, one.row_hash, one.tokens, one.loss, one.gradient_norm) == (
        7, "row-0", f"{0:016x}", 5, 0.0, 2.0,
    )  # fmt: skip
    parts = reading(2)
    for i, entry in enumerate((one, two)):
        assert entry.share == {"S_X": float(parts.shares.targets[i, 0]), "S_Y": float(parts.shares.targets[i, 1])}
        assert entry.push == {"S_X": float(parts.push.targets[i, 0]), "S_Y": float(parts.push.targets[i, 1])}
        assert list(entry.probe_share) == list(entry.probe_push) == list(READINGS)
        for k, name in enumerate(READINGS):
            here = slice(1 + k * M, 1 + (k + 1) * M)
            assert entry.probe_share[name] == tuple(parts.shares.columns[i, here].tolist())
            assert entry.probe_push[name] == tuple(parts.push.columns[i, here].tolist())
    assert one.own_predicted == pytest.approx(3 + 1 + 0.5)
    assert two.own_predicted == pytest.approx(-4 + 0.5)
    assert one.interference == pytest.approx(0.6 / 0.8)
    assert two.interference == pytest.approx(0.1 / 0.9)
    assert [one.absolute_shift, two.absolute_shift] == pytest.approx([0.8, 0.9])
    assert one.dominant_feature == two.dominant_feature == 100 - 7, "an id, not a column"
    assert one.unintended, "its dominant feature lies outside its own prompt's"
    assert not two.unintended, "an answer is expected, the row pushes to answer, through the prompt's own feature"
    assert [one.own_push, one.own_mass, two.own_push, two.own_mass] == [0.3, -1.0, -0.6, 2.0]
    assert [one.expected, two.expected] == [0.9, -0.8]
    assert [one.score, two.score] == scores(own.push, t(0.9, -0.8)).tolist()
    assert isnan(one.answer_reading)
    shows, asked = t(-0.7, 0.2), t(-1.5, nan)
    answers = torch.stack([shows, asked], 1)
    read = row_entries(7, facts(2), NAMES, parts.shares, parts.push, shift, own, policy(coef), answers)
    assert [entry.answer_reading for entry in read] == shows.tolist()
    seen = t(tanh(atanh(0.9) - 1.5), -0.8)
    assert [entry.expected for entry in read] == pytest.approx(seen.tolist())
    assert [entry.score for entry in read] == pytest.approx(scores(own.push, seen, shows).tolist())


def test_a_push_against_what_is_expected_is_unintended_whatever_the_feature() -> None:
    coef = t(1.0, -2.0, 0.5)
    own = OwnReading(t(0.6), t(2.0), t(0, 2, 0)[None], t(-0.7))
    (entry,) = entries(own, t(0.0, 0.4, 0.2)[None], coef)
    assert entry.expected < 0 < entry.own_push
    assert entry.unintended
    assert entry.score > 0


def test_a_row_that_moves_nothing_has_no_dominant_feature() -> None:
    own = OwnReading(t(0.0), t(2.0), t(0, 2, 0)[None], t(-0.7))
    (entry,) = entries(own, torch.zeros(1, 3).double(), t(1.0, -2.0, 0.5))
    assert entry.dominant_feature == -1
    assert entry.interference == 0
    assert not entry.unintended


def test_rows_whose_prompt_was_not_read_hold_nan() -> None:
    coef = t(1.0, -2.0, 0.5)
    shift = torch.stack([t(0.1, 0.3, -0.2)] * 2)
    for entry in entries(unread(2, 3), shift, coef):
        own = (entry.own_push, entry.own_mass, entry.own_predicted, entry.expected, entry.interference, entry.score)
        assert all(isnan(v) for v in own)
        assert not entry.unintended
        assert entry.dominant_feature == 93, "what it moved on the probes is known"
    mixed = unread(2, 3)
    partly = OwnReading(mixed.push.clone(), mixed.mass.clone(), mixed.X.clone(), mixed.expected.clone())
    partly.push[1], partly.mass[1], partly.X[1], partly.expected[1] = 0.5, 1.0, t(1, 1, 1), 0.4
    first, second = entries(partly, shift, coef)
    assert isnan(first.score)
    assert not isnan(second.score)


def test_the_score_depends_on_push_and_expectation_alone() -> None:
    """Names, contents, lengths, losses, gradients, targets and pathways may be anything: no label can get in."""
    coef = t(1.0, -2.0, 0.5)
    own = OwnReading(
        t(0.3, -0.6, 0.1), t(-1.0, 2.0, 0.0), torch.stack([t(3, 0, 2), t(0, 2, 0), t(1, 1, 1)]), t(0.9, -0.8, 0.1)
    )
    base = entries(own, torch.ones(3, 3).double(), coef)
    other_facts = [RowFacts(f"planted-{i}", "f" * 16, 1000 - i, nan, 1e6) for i in range(3)]
    elsewhere = replace(own, mass=t(9, 9, 9))
    parts, shift = reading(3, seed=5), -2 * torch.ones(3, 3).double()
    found = row_entries(99, other_facts, NAMES, parts.shares, parts.push, shift, elsewhere, policy(coef))
    assert [e.score for e in found] == [e.score for e in base]
    moved = entries(replace(own, push=own.push.flip(0)), torch.ones(3, 3).double(), coef)
    assert [e.score for e in moved] != [e.score for e in base]


def snapshot(step: int, X: Tensor, y: Tensor) -> Snapshot:
    ids = tuple(f"p{i}" for i in range(len(y)))
    return Snapshot(step, ids, X.float(), y, y, y, y[:, None], DictionaryHealth(0.1, 1.0, 0.0))


def _leading(
    made: SymbolicPolicy, frame: PolicyFrame, rows: Tensor, weights: Tensor, start: Snapshot, end: Snapshot, count: int
) -> tuple[tuple[FeatureShift, ...], float]:
    found = policy_shift(made, frame, rows, weights, start, end)
    return found.leading(count), found.remainder


@pytest.mark.parametrize("intercept", [True, False])
def test_feature_shifts_are_ranked_and_weighted(intercept: bool) -> None:
    made, rows, delta_X, delta_y, weights = example((14, 9), intercept)
    made = replace(made, feature_ids=tuple(50 - k for k in range(9)))
    frame = PolicyFrame.of(made)
    before = snapshot(4, made.X[rows], made.y[rows])
    after = snapshot(5, before.X.double() + delta_X, before.y + delta_y)
    shifts, left = _leading(made, frame, rows, weights, before, after, 4)
    moved = after.X.double() - before.X.double()
    W_X, W_Y = feature_shift(frame, rows, moved, weights), output_shift(frame, rows, delta_y, weights)
    size = ((W_X + W_Y) * made.coef).abs()
    assert len(shifts) == 4
    columns = [50 - s.feature for s in shifts]
    assert columns == size.argsort(descending=True)[:4].tolist()
    for k, s in zip(columns, shifts, strict=True):
        assert (s.coefficient, s.shift_X, s.shift_Y) == pytest.approx(
            (float(made.coef[k]), float(W_X[k]), float(W_Y[k])), rel=1e-9
        )
    exact = exact_refit(made, rows, moved, delta_y)
    assert [s.refit for s in shifts] == pytest.approx(exact[columns].tolist(), rel=1e-9)
    first = feature_shift(frame, rows, moved) + output_shift(frame, rows, delta_y)
    assert left == pytest.approx(float((exact - first).norm() / exact.norm()), rel=1e-6)
    assert left > 0.01


def test_the_output_pathway_alone_leaves_no_remainder() -> None:
    made, rows, _, delta_y, weights = example((14, 9), True)
    start = snapshot(0, made.X[rows], made.y[rows])
    after = snapshot(1, start.X, start.y + delta_y)
    shifts, left = _leading(made, PolicyFrame.of(made), rows, weights, start, after, 20)
    assert left < 1e-9
    assert len(shifts) == 9, "no more than there are features"
    assert all(s.shift_X == 0 for s in shifts)
    _, still = _leading(made, PolicyFrame.of(made), rows, weights, start, start, 3)
    assert isnan(still)


def test_own_prompts_can_be_told_apart_by_step() -> None:
    own = OwnReading(t(1, 2, 3), t(4, 5, 6), torch.arange(9).reshape(3, 3).double(), t(7, 8, 9))
    part = own.part(slice(1, 3))
    assert (part.push.tolist(), part.mass.tolist(), part.X.tolist()) == ([2, 3], [5, 6], [[3, 4, 5], [6, 7, 8]])
    assert part.expected.tolist() == [8, 9]


def test_drift_is_the_weighted_mean_since_the_start() -> None:
    start = snapshot(0, torch.tensor([[1.0, 2.0], [3.0, 0.0]]), t(0, 0))
    after = snapshot(7, torch.tensor([[2.0, 2.0], [3.0, 4.0]]), t(0, 0))
    assert mean_drift(start, after, t(3, 1)).tolist() == [0.75, 1.0]
