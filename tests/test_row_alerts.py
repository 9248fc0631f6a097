"""Alerts on rows: which are named, in which order, once, and how often where there is nothing to name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_alerts import account, row

from smda_monitor.errors import ConfigError
from smda_monitor.maths.row_alerts import LATEST, row_alert
from smda_monitor.records.account import RowEntry, StepAccount
from smda_monitor.records.alert import Alert

BATCH, RATE = 8, 0.1


def entry(name: str, score: float, wrong: bool = True) -> RowEntry:
    """A row of that score whose push goes against what is expected, or along with it."""
    return replace(row(name, score), expected=0.1, own_push=-0.5 if wrong else 0.5)


def accounts(scores: list[float], first: int = 13, planted: dict[int, float] | None = None) -> list[StepAccount]:
    """One account for every eight rows; those at the places of `planted` have these scores, and are named so."""
    marked = planted or {}
    rows = [
        replace(entry(f"{'bad' if i in marked else 'row'}-{i}", marked.get(i, score)), step=first + i // BATCH)
        for i, score in enumerate(scores)
    ]
    return [
        account(tuple(rows[i : i + BATCH]), step=first + i // BATCH, warm_up=first + i // BATCH < 13)
        for i in range(0, len(rows), BATCH)
    ]


def usual(count: int = 80, seed: int = 0) -> list[float]:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()


def test_rows_that_stand_out_are_named_once_the_worst_first() -> None:
    run = accounts(usual(), planted={11: 9.0, 40: 12.0, 70: 7.0})
    alert = row_alert("refusal", run, RATE, ())
    assert isinstance(alert, Alert)
    assert alert.rows == ("bad-40", "bad-11", "bad-70")
    assert alert.pushes == (-0.5, -0.5, -0.5)
    assert (alert.kind, alert.step, alert.since, alert.evidence) == ("rows", run[-1].step, 14, None)
    assert (alert.subject, alert.quantity) == ("row bad-40 and 2 more by refusal", "score over what is usual")
    assert alert.value == pytest.approx(12.0, abs=0.5)
    assert alert.value > alert.threshold
    assert "stand out now about 10%" in alert.advice
    again = row_alert("refusal", run, RATE, {"bad-40", "bad-70"})
    assert again is not None
    assert (again.rows, again.subject) == (("bad-11",), "row bad-11 by refusal")
    assert row_alert("refusal", run, RATE, set(alert.rows)) is None


def test_at_most_ten_at_a_time_and_the_others_next() -> None:
    run = accounts(usual(200), planted={i: 20.0 + i for i in range(0, 130, 10)})
    alert = row_alert("refusal", run, RATE, ())
    assert alert is not None
    assert len(alert.rows) == 10
    rest = row_alert("refusal", run, RATE, alert.rows)
    assert rest is not None
    assert rest.rows[:3] == ("bad-20", "bad-10", "bad-0")


def test_who_is_not_named() -> None:
    assert row_alert("refusal", [account()], RATE, ()) is None
    assert row_alert("refusal", accounts(usual(), first=1, planted={3: 99.0}), RATE, ()) is None, "in warm-up"
    along = [
        replace(a, rows=tuple(replace(r, own_push=0.5) for r in a.rows)) for a in accounts(usual(), planted={3: 9.0})
    ]
    assert row_alert("refusal", along, RATE, ()) is None, "it goes along with its prompt"
    run = accounts(usual(), planted={3: math.nan})
    assert row_alert("refusal", run, RATE, ()) is None, "no score"
    assert row_alert("refusal", run, RATE, ()) == row_alert("refusal", accounts(usual()), RATE, ())


def test_scores_within_the_tolerance_name_nobody() -> None:
    """Where the bulk hardly varies, a row that goes against nothing stands out of it too."""
    narrow = [0.01 * score for score in usual()]
    run = accounts(narrow, planted={3: 0.2, 11: 0.9})
    found = row_alert("refusal", run, RATE, ())
    assert found is not None
    assert set(found.rows) == {"bad-3", "bad-11"}
    found = row_alert("refusal", run, RATE, (), tolerance=0.25)
    assert found is not None
    assert found.rows == ("bad-11",)
    below = accounts([score - 1 for score in narrow], planted={3: -0.5})
    assert row_alert("refusal", below, RATE, ()) is None, "least against its prompt, and yet along with it"
    assert row_alert("refusal", accounts([score + 1 for score in narrow], planted={3: 1.5}), RATE, ()) is not None


def test_a_step_whose_audit_fell_short_names_nobody() -> None:
    run = accounts(usual(), planted={3: 9.0, 43: 9.0})
    found = row_alert("refusal", run, RATE, (), short={13})
    assert found is not None
    assert found.rows == ("bad-43",)
    assert row_alert("refusal", run, RATE, (), short={13, 18}) is None


def test_the_latest_entry_of_a_row_counts() -> None:
    better = account((entry("bad-3", 0.0),), step=99)
    assert row_alert("refusal", accounts(usual(), planted={3: 9.0}), RATE, ()) is not None
    assert row_alert("refusal", [*accounts(usual(), planted={3: 9.0}), better], RATE, ()) is None
    assert row_alert("refusal", [better, *accounts(usual(), planted={3: 9.0})], RATE, ()) is not None


def test_only_so_many_rows_are_held_against_one_another() -> None:
    early = accounts(usual(BATCH), planted={0: 99.0})
    late = accounts(usual(LATEST), first=14)
    assert row_alert("refusal", [*early, *late[: LATEST // BATCH - 1]], RATE, ()) is not None
    found = row_alert("refusal", [*early, *late], RATE, ())
    assert found is None or "bad-0" not in found.rows


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="false-discovery rate"):
        row_alert("refusal", accounts(usual()), 1.0, ())


def test_runs_without_such_rows_name_any_no_more_often_than_the_rate_says() -> None:
    runs = 300
    named = sum(row_alert("refusal", accounts(usual(80, seed)), RATE, ()) is not None for seed in range(runs))
    assert named / runs <= RATE + 2 * math.sqrt(RATE * (1 - RATE) / runs)
    assert named > 0, "the rate is used"
