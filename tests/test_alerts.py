"""Alerts: where the plain limits lie, which rows a drift names in which order, and once per subject."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, isfinite

import pytest
from synthetic_run import make_audit

from smda_monitor.maths.alerts import LEADING_ROWS, by_outstanding, drift_alert, limit_alerts
from smda_monitor.maths.drift import Drift
from smda_monitor.maths.intent import FEATURES, Direction
from smda_monitor.records.account import RowEntry, StepAccount, TargetBalance
from smda_monitor.records.alert import Alert
from smda_monitor.records.alerts_config import AlertsConfig
from smda_monitor.records.audit import AuditEntry
from smda_monitor.records.snapshot import DictionaryHealth

LIMITS = AlertsConfig(unexplained=0.25)


def row(row_id: str, score: float = 0.0, **push: float) -> RowEntry:
    return RowEntry(
        step=1, row_id=row_id, row_hash="0" * 16, tokens=4, loss=1.0, gradient_norm=1.0, share={},
        push={name.replace("_", "."): value for name, value in push.items()}, own_push=0.0, own_mass=0.0,
        own_predicted=0.0, expected=0.0, interference=0.0, dominant_feature=-1, unintended=False,
        answer_reading=0.0, score=score,
        probe_share={}, probe_push={},
    )  # fmt: skip


def account(
    rows: tuple[RowEntry, ...] = (),
    warm_up: bool = False,
    left: tuple[float, float] = (0.0, 0.0),
    step: int = 20,
) -> StepAccount:
    parts = [TargetBalance(n, 1.0 + e, 1.0, 0.0, 0.0, 1.0) for n, e in zip(("S_X", "S_Y"), left, strict=True)]
    return StepAccount(
        step=step, since=step - 1, warm_up=warm_up, learning_rate=1e-3, clip_factor=1.0, capture_error=0.0,
        balances=tuple(parts), rows=rows, past=(), probes={}, features=(), drift=(), refit_remainder=0.0,
        refusal={}, standard_error={}, health=DictionaryHealth(0.1, 1.0, 0.0), seconds=0.0,
    )  # fmt: skip


def raised(latest: StepAccount, limits: AlertsConfig = LIMITS, known: set[str] | None = None) -> list[Alert]:
    return limit_alerts("refusal", limits, latest, known or set())


def test_switched_off() -> None:
    bad = account(left=(9.0, 9.0))
    assert raised(bad, limits=AlertsConfig(unexplained=None)) == []
    found = raised(bad)
    assert [a.subject for a in found] == [
        "feature-activation pathway in the accounts of refusal",
        "output-probability pathway in the accounts of refusal",
    ]
    assert all(a.since == a.step and a.evidence is None and a.rows == a.pushes == () for a in found)
    assert raised(bad, known={found[0].subject}) == found[1:]
    assert raised(replace(bad, warm_up=True)) == [], "warm-up is not judged"


@pytest.mark.parametrize(("left", "count"), [((0.2, -0.2), 0), ((0.3, 0.0), 1), ((-0.3, 0.3), 2)])
def test_accounts_that_do_not_close(left: tuple[float, float], count: int) -> None:
    found = raised(account(left=left))
    assert len(found) == count
    assert all(a.value == pytest.approx(0.3) and a.threshold == 0.25 and a.rows == () for a in found)


def test_an_account_of_nothing_but_the_unexplained_is_alerted() -> None:
    nothing = replace(account(), balances=tuple(TargetBalance(n, 0.1, 0, 0, 0, 0) for n in ("S_X", "S_Y")))
    assert [a.value for a in raised(nothing)] == [inf, inf]


def audits(count: int, error: float, first: int = 13) -> list[AuditEntry]:
    return [make_audit(first + i % 5, error=error, place=i % 10) for i in range(count)]


def audited(found: list[AuditEntry], limits: AlertsConfig = LIMITS, **changes: bool) -> list[Alert]:
    return limit_alerts("refusal", limits, account(**changes), set(), found)  # type: ignore[arg-type]


def test_pushes_that_miss_their_replays_are_alerted() -> None:
    (alert,) = audited(audits(3, 0.4))
    assert alert.subject == "self-audit of the accounts of refusal"
    assert alert.value == pytest.approx(0.4)
    assert alert.threshold == 0.25
    assert "3 replayed rows" in alert.quantity
    assert "ranking" in alert.advice
    assert audited(audits(3, 0.2)) == []


def test_too_few_replays_and_those_of_warm_up_say_nothing() -> None:
    assert audited(audits(2, 9.0)) == []
    assert audited(audits(9, 9.0, first=1)) == []
    assert audited(audits(9, 9.0, first=1) + audits(3, 0.1)) == [], "those of warm-up do not count"
    assert audited(audits(9, 9.0), limits=AlertsConfig(audit=None)) == []
    assert audited(audits(9, 9.0), warm_up=True) == []
    assert len(audited(audits(9, 9.0))) == 1


def test_pushes_that_begin_to_miss_late_are_alerted_too() -> None:
    assert audited(audits(100, 0.02)) == []
    (alert,) = audited(audits(100, 0.02) + audits(12, 0.4))
    assert alert.value == pytest.approx(0.4)
    assert audited(audits(100, 0.4) + audits(12, 0.02)) == [], "nor is what has been mended"


def drifted(of: str, sign: float, *accounts: StepAccount, evidence: float = 6.0) -> Alert:
    found = Drift(Direction(of, sign), 1.25 * sign, 0.5, evidence)
    return drift_alert("refusal", found, 20, 17, accounts)


def test_a_drift_names_what_moved_since_when_and_by_how_much() -> None:
    alert = drifted("harmful", -1.0)
    assert (alert.step, alert.since, alert.subject) == (20, 17, "refusal of harmful probes")
    assert (alert.quantity, alert.value, alert.threshold) == ("mass.harmful since step 0", -1.25, -0.5)
    assert alert.evidence == pytest.approx(exp(6.0))
    assert "refusal of harmful probes: mass.harmful since step 0 -1.25 (tolerance -0.5" in alert.title
    assert "evidence 403 to 1" in alert.title
    assert (alert.rows, alert.pushes) == ((), ())
    assert isfinite(drifted("benign", 1.0, evidence=1e5).evidence or inf)


def test_rows_are_ranked_by_what_they_pushed_over_the_whole_run() -> None:
    one = account((row("a", mass_harmful=-1.0), row("b", mass_harmful=-2.0), row("c", mass_harmful=5.0)), step=19)
    two = account((row("a", mass_harmful=-1.5), row("d", mass_harmful=0.0), row("e")))
    alert = drifted("harmful", -1.0, one, two)
    assert (alert.rows, alert.pushes) == (("a", "b"), (-2.5, -2.0)), "the others did not push it down"
    up = account((row("x", mass_benign=0.1), row("y", mass_benign=0.3, mass_harmful=-9.0)))
    assert drifted("benign", 1.0, one, up).rows == ("y", "x")


def test_rows_of_low_confidence_count_half_in_the_ranking_and_whole_in_the_figures() -> None:
    early = account((row("warm", mass_benign=1.9),), warm_up=True, step=3)
    late = account((row("a", mass_benign=1.0), row("b", mass_benign=0.9)), step=20)
    alert = drifted("benign", 1.0, early, late)
    assert (alert.rows, alert.pushes) == (("a", "warm", "b"), (1.0, 1.9, 0.9))
    short = account((replace(row("short", mass_benign=1.9), step=18),), step=18)
    found = Drift(Direction("benign", 1.0), 1.25, 0.5, 6.0)
    assert drift_alert("refusal", found, 20, 17, [short, late]).rows == ("short", "a", "b")
    assert drift_alert("refusal", found, 20, 17, [short, late], {18}).rows == ("a", "short", "b")


def test_a_drift_through_features_is_laid_to_rows_by_what_the_policy_explains() -> None:
    of_kinds = {f"explained_{kind}": value for kind, value in (("harmful", 3.0), ("lookalike", 0.0), ("benign", 1.5))}
    alert = drifted(FEATURES, 1.0, account((row("a", mass_harmful=9.0), row("b", **of_kinds))))
    assert (alert.rows, alert.pushes) == (("b",), (1.5,))
    assert alert.quantity == "the policy's reading since step 0"
    assert "Led by" not in alert.advice


@pytest.mark.parametrize(
    ("outstanding", "laid"),
    [({"a"}, True), ({"b", "c"}, True), ({"b"}, False), ({"c", "x"}, False), (set(), False), ({"a", "b", "c"}, True)],
)
def test_a_drift_is_laid_to_rows_that_stand_out_where_they_pushed_a_third(outstanding: set[str], laid: bool) -> None:
    pushed = account((row("a", mass_benign=6.0), row("b", mass_benign=2.0), row("c", mass_benign=2.0)))
    assert by_outstanding(drifted("benign", 1.0, pushed), outstanding) == laid


def test_a_drift_without_rows_is_laid_to_none() -> None:
    assert not by_outstanding(drifted("benign", 1.0), {"a"})


def test_what_is_laid_to_rows_that_stand_out_needs_alerts_on_them() -> None:
    assert AlertsConfig(drift_by="outstanding").row_rate == 0.1
    with pytest.raises(ValueError, match="set row_rate"):
        AlertsConfig(drift_by="outstanding", row_rate=None)


def test_at_most_ten_rows_are_named() -> None:
    many = tuple(row(f"r{i}", mass_benign=float(i)) for i in range(30))
    alert = drifted("benign", 1.0, account(many))
    assert alert.rows == tuple(f"r{i}" for i in range(29, 29 - LEADING_ROWS, -1))
    assert len(alert.pushes) == LEADING_ROWS
