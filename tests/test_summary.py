"""Closing figures and the ranking of rows."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest
from synthetic_run import PLANTED, make_account, make_audit, make_header

from smda_monitor.outputs.files import to_json
from smda_monitor.outputs.ranking import rank_rows
from smda_monitor.outputs.summary import median_unexplained, summarise
from smda_monitor.records.account import StepAccount
from smda_monitor.records.overhead import Overhead

POLICY = make_header(Path()).policy


def accounts(first: int, last: int) -> list[StepAccount]:
    return [make_account(step, POLICY) for step in range(first, last + 1)]


def test_median_leaves_warm_up_out() -> None:
    run = accounts(1, 18)
    expected = {
        name: statistics.median(a.balance(target).unexplained_fraction for a in run[12:])
        for name, target in (("output", "S_Y"), ("feature", "S_X"))
    }
    medians, after = median_unexplained(run)
    assert after
    assert medians == expected
    over_all = statistics.median(a.balance("S_X").unexplained_fraction for a in run)
    assert medians["feature"] != over_all  # else leaving warm-up out is not tested


def test_median_takes_all_where_there_is_only_warm_up() -> None:
    run = accounts(1, 5)
    medians, after = median_unexplained(run)
    assert not after
    assert medians["output"] == statistics.median(a.balance("S_Y").unexplained_fraction for a in run)


def test_summary_holds_the_closing_figures() -> None:
    before, after = {"mass.harmful": 3.0, "contrast.harmful": 1.0}, {"mass.harmful": 0.5, "contrast.harmful": 0.2}
    summary = summarise(accounts(1, 14), before=before, after=after, policy_r2=0.9, alerts=2, seconds=100.0)
    assert summary["refusal"] == {"before": {"harmful": 3.0}, "after": {"harmful": 0.5}}
    assert summary["refusal_contrast"]["after"] == {"harmful": 0.2}
    assert (summary["seconds"], summary["policy_r2"], summary["alerts"]) == (100.0, 0.9, 2)
    assert summary["unexplained"]["after_warm_up"] is True
    assert (summary["steps"], summary["accounts"], summary["rows"]) == (14, 14, 140)
    assert summary["monitor_seconds"] == pytest.approx(14 * 4.1)
    assert 0 < summary["effects"]["unintended"] < summary["effects"]["interference"] < 1
    assert summary["effects"]["dominant_feature"] in {row.dominant_feature for a in accounts(1, 14) for row in a.rows}


def test_summary_says_how_close_the_pushes_came() -> None:
    audits = [make_audit(step, error=error) for step, error in ((1, 0.9), (13, 0.1), (14, 0.3), (15, 0.2))]
    found = summarise(accounts(1, 15), before={}, after={}, policy_r2=0.9, alerts=0, audits=audits)
    expected = {"rows": 3, "relative_error": pytest.approx(0.2), "sign": 1.0, "after_warm_up": True}
    assert {k: found["audit"][k] for k in expected} == expected
    assert math.isnan(found["audit"]["spearman"]), "three entries of a target have no ranks worth naming"
    assert found["monitor_seconds"] == pytest.approx(15 * 4.1 + 4 * 0.5)


def test_empty_run_gives_strict_json() -> None:
    summary = summarise([], before={}, after={}, policy_r2=math.nan, alerts=0)
    assert json.loads(to_json(summary))["unexplained"] == {"output": None, "feature": None, "after_warm_up": False}
    assert summary["seconds"] == 0
    assert json.loads(to_json(summary))["effects"] == {"interference": None, "unintended": None, "dominant_feature": -1}


def test_ranking_holds_every_row_highest_score_first() -> None:
    ranking = rank_rows(accounts(1, 18))
    assert len(ranking) == 180
    leading = {(r.entry.step, int(r.entry.row_id[5:]) % 10) for r in ranking[: len(PLANTED)]}
    assert leading == set(PLANTED)
    assert {r.entry.step: r.warm_up for r in ranking} == {step: step <= 12 for step in range(1, 19)}
    scores = [r.entry.score for r in ranking]
    assert scores == sorted(scores, reverse=True)


def test_row_seen_twice_is_ranked_once_by_its_step_after_warm_up() -> None:
    run = accounts(12, 14)
    early = dataclasses.replace(run[0].rows[0], score=999.0)
    late, later = (dataclasses.replace(early, step=step, score=score) for step, score in ((13, 98.0), (14, 99.0)))
    for i, row in enumerate((early, late, later)):
        run[i] = dataclasses.replace(run[i], rows=(*run[i].rows[i == 0 :], row))
    top = rank_rows(run)[0]
    assert (top.entry.score, top.warm_up, top.first_step, top.times) == (99.0, False, 12, 3)


def test_rows_without_score_come_last() -> None:
    run = accounts(13, 13)
    rows = tuple(dataclasses.replace(r, score=math.nan) if i < 3 else r for i, r in enumerate(run[0].rows))
    ranking = rank_rows([dataclasses.replace(run[0], rows=rows)])
    assert [math.isnan(r.entry.score) for r in ranking] == [False] * 7 + [True] * 3


def test_summary_says_what_the_monitor_cost() -> None:
    found = summarise(
        accounts(1, 2), before={}, after={}, policy_r2=0.9, alerts=0, overhead=Overhead(0.1, 0.08, 12, 32)
    )
    assert found["overhead"] == {"asked": 0.1, "measured": 0.08, "every": 12, "probes": 32}
    assert summarise(accounts(1, 2), before={}, after={}, policy_r2=0.9, alerts=0)["overhead"] is None
