"""Threshold alerts: where the limits lie, which rows are named in which order, and once per subject."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from synthetic_run import make_audit

from smda_monitor.maths.alerts import LEADING_ROWS, threshold_alerts
from smda_monitor.records.account import RowEntry, StepAccount, TargetBalance
from smda_monitor.records.alert import Alert
from smda_monitor.records.audit import AuditEntry
from smda_monitor.records.config import AlertsConfig, BehaviourConfig
from smda_monitor.records.snapshot import DictionaryHealth

LIMITS = AlertsConfig(harmful_drop=1.0, harmless_rise=0.5, row_score=3.0, unexplained=0.25)
START = {"mass.harmful": 4.0, "mass.lookalike": -3.0, "mass.benign": -8.0, "contrast.harmful": 1.0}


def row(row_id: str, score: float = 0.0, **push: float) -> RowEntry:
    return RowEntry(
        step=1, row_id=row_id, row_hash="0" * 16, tokens=4, loss=1.0, gradient_norm=1.0, share={},
        push={name.replace("_", "."): value for name, value in push.items()}, own_push=0.0, own_mass=0.0,
        own_predicted=0.0, expected=0.0, interference=0.0, dominant_feature=-1, unintended=False,
        answer_reading=0.0, score=score,
        probe_share={}, probe_push={},
    )  # fmt: skip


def account(
    refusal: dict[str, float] | None = None,
    rows: tuple[RowEntry, ...] = (),
    warm_up: bool = False,
    left: tuple[float, float] = (0.0, 0.0),
    step: int = 20,
) -> StepAccount:
    parts = [TargetBalance(n, 1.0 + e, 1.0, 0.0, 0.0, 1.0) for n, e in zip(("S_X", "S_Y"), left, strict=True)]
    return StepAccount(
        step=step, since=step - 1, warm_up=warm_up, learning_rate=1e-3, clip_factor=1.0, capture_error=0.0,
        balances=tuple(parts), rows=rows, past=(), probes={}, features=(), drift=(), refit_remainder=0.0,
        refusal={**START, **(refusal or {})}, standard_error={}, health=DictionaryHealth(0.1, 1.0, 0.0), seconds=0.0,
    )  # fmt: skip


def raised(*accounts: StepAccount, limits: AlertsConfig = LIMITS, known: set[str] | None = None) -> list[Alert]:
    return threshold_alerts(limits, START, accounts, known or set())


@pytest.mark.parametrize(
    ("name", "value", "subject", "threshold"),
    [
        ("mass.harmful", 2.9, "refusal of harmful probes", -1.0),
        ("mass.lookalike", -2.4, "refusal of lookalike probes", 0.5),
        ("mass.benign", -7.4, "refusal of benign probes", 0.5),
    ],
)
def test_drift_of_each_kind(name: str, value: float, subject: str, threshold: float) -> None:
    (alert,) = raised(account({name: value}))
    assert alert.subject == subject
    assert alert.value == pytest.approx(value - START[name])
    assert alert.threshold == threshold
    assert alert.step == 20
    assert subject in alert.title
    assert alert.advice
    inside = START[name] + 0.99 * threshold
    assert raised(account({name: inside})) == []
    assert raised(account({name: START[name] - 3 * threshold})) == [], "the wanted direction is no alert"


@pytest.mark.parametrize(
    ("name", "value", "threshold"),
    [("mass.harmful", 5.1, 1.0), ("mass.lookalike", -3.6, -0.5), ("mass.benign", -8.6, -0.5)],
)
def test_a_behaviour_that_is_wanted_on_harmless_probes_is_judged_the_other_way_round(
    name: str, value: float, threshold: float
) -> None:
    guessing = BehaviourConfig(name="guessing", wanted_on="harmless")
    rows = (row("a", **{name.replace(".", "_"): value - START[name]}), row("b"))
    moved = account({name: value}, rows)
    (alert,) = threshold_alerts(LIMITS, START, [moved], set(), (), guessing)
    assert (alert.subject, alert.threshold, alert.rows) == (f"guessing of {name[5:]} probes", threshold, ("a",))
    assert raised(moved) == [], "of refusal the same move is no alert"


@pytest.mark.parametrize("refusal", [{"mass.harmful": nan}, {"contrast.harmful": -50.0}, {"mass.other": 50.0}])
def test_what_is_not_judged(refusal: dict[str, float]) -> None:
    assert raised(account(refusal)) == []


def test_switched_off() -> None:
    off = AlertsConfig(harmful_drop=None, harmless_rise=None, row_score=None, unexplained=None)
    bad = account({"mass.harmful": -50.0, "mass.benign": 50.0}, (row("a", 99.0),), left=(9.0, 9.0))
    assert raised(bad, limits=off) == []
    assert len(raised(bad)) == 5


def test_drift_is_judged_in_warm_up_and_the_rest_is_not() -> None:
    early = account({"mass.harmful": 0.0}, (row("a", 99.0),), warm_up=True, left=(9.0, 9.0))
    assert [a.subject for a in raised(early)] == ["refusal of harmful probes"]
    late = replace(early, warm_up=False)
    assert {a.subject for a in raised(late)} == {
        "refusal of harmful probes",
        "account of the feature-activation pathway",
        "account of the output-probability pathway",
        "row a",
    }


@pytest.mark.parametrize(("left", "count"), [((0.2, -0.2), 0), ((0.3, 0.0), 1), ((-0.3, 0.3), 2)])
def test_accounts_that_do_not_close(left: tuple[float, float], count: int) -> None:
    found = raised(account(left=left))
    assert len(found) == count
    assert all(a.value == pytest.approx(0.3) and a.threshold == 0.25 and a.rows == () for a in found)


def test_an_account_of_nothing_but_the_unexplained_is_alerted() -> None:
    nothing = replace(account(), balances=tuple(TargetBalance(n, 0.1, 0, 0, 0, 0) for n in ("S_X", "S_Y")))
    assert [a.value for a in raised(nothing)] == [inf, inf]


def audits(count: int, error: float, first: int = 13) -> list[AuditEntry]:
    return [make_audit(first + i % 5, error=error, place=i) for i in range(count)]


def audited(found: list[AuditEntry], limits: AlertsConfig = LIMITS, **changes: bool) -> list[Alert]:
    return threshold_alerts(limits, START, [account(**changes)], set(), found)  # type: ignore[arg-type]


def test_pushes_that_miss_their_replays_are_alerted() -> None:
    (alert,) = audited(audits(3, 0.4))
    assert alert.subject == "self-audit of the accounts"
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


def test_rows_are_ranked_by_what_they_pushed_over_the_whole_run() -> None:
    one = account(rows=(row("a", mass_harmful=-1.0), row("b", mass_harmful=-2.0), row("c", mass_harmful=5.0)), step=19)
    two = account({"mass.harmful": 0.0}, (row("a", mass_harmful=-1.5), row("d", mass_harmful=0.0), row("e")))
    (alert,) = raised(one, two)
    assert alert.rows == ("a", "b"), "a pushed 2.5 down in two steps, b 2, the others did not"
    up = account({"mass.benign": -7.0}, (row("x", mass_benign=0.1), row("y", mass_benign=0.3, mass_harmful=-9.0)))
    (alert,) = raised(one, up)
    assert alert.rows == ("y", "x")


def test_at_most_ten_rows_are_named() -> None:
    many = tuple(row(f"r{i}", mass_benign=float(i)) for i in range(30))
    (alert,) = raised(account({"mass.benign": 0.0}, many))
    assert alert.rows == tuple(f"r{i}" for i in range(29, 29 - LEADING_ROWS, -1))


def test_once_per_subject() -> None:
    bad = account({"mass.harmful": 0.0, "mass.benign": 0.0}, (row("a", 9.0), row("b", 9.0), row("c", 3.0)))
    first = raised(bad)
    subjects = [a.subject for a in first]
    assert subjects == ["refusal of harmful probes", "refusal of benign probes", "row a", "row b"]
    assert raised(bad, known=set(subjects)) == []
    assert [a.subject for a in raised(bad, known={"row a", "refusal of benign probes"})] == [
        "refusal of harmful probes",
        "row b",
    ]


def test_a_row_that_stands_twice_in_a_step_is_one_subject() -> None:
    (alert,) = raised(account(rows=(row("a", 5.0), row("a", 4.0))))
    assert alert.value == 5.0
    assert alert.rows == ("a",)


def test_a_row_without_score_is_not_alerted() -> None:
    assert raised(account(rows=(row("a", nan), row("b", -99.0)))) == []
