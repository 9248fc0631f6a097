"""Closing figures and the ranking of rows."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest
from synthetic_run import PLANTED, make_account, make_header, make_probes, make_snapshot

from smda_monitor.outputs.files import to_json
from smda_monitor.outputs.ranking import rank_rows
from smda_monitor.outputs.summary import median_unexplained, refusal_of, summarise
from smda_monitor.records.account import StepAccount

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


def test_refusal_of_is_the_plain_mean_by_kind() -> None:
    probes = make_probes()
    snapshot = make_snapshot(probes, 3)
    means = refusal_of(snapshot, probes)
    assert set(means) == {f"{r}.{k}" for r in ("mass", "contrast") for k in ("harmful", "lookalike", "benign")}
    total = sum(v for p, v in zip(probes, snapshot.mass.tolist(), strict=True) if p.kind == "lookalike")
    assert means["mass.lookalike"] == pytest.approx(total / 60)


def test_refusal_of_leaves_out_kinds_that_were_not_measured() -> None:
    probes = make_probes()
    assert set(refusal_of(make_snapshot(probes, 0, [0, 1]), probes)) == {"mass.harmful", "contrast.harmful"}


def test_summary_holds_the_closing_figures() -> None:
    before, after = {"mass.harmful": 3.0, "contrast.harmful": 1.0}, {"mass.harmful": 0.5, "contrast.harmful": 0.2}
    summary = summarise(accounts(1, 14), before=before, after=after, policy_r2=0.9, alerts=2, seconds=100.0)
    assert summary["refusal"] == {"before": {"harmful": 3.0}, "after": {"harmful": 0.5}}
    assert summary["refusal_contrast"]["after"] == {"harmful": 0.2}
    assert (summary["seconds"], summary["policy_r2"], summary["alerts"]) == (100.0, 0.9, 2)
    assert summary["unexplained"]["after_warm_up"] is True
    assert (summary["steps"], summary["accounts"], summary["rows"]) == (14, 14, 140)
    assert summary["monitor_seconds"] == pytest.approx(14 * 4.1)


def test_empty_run_gives_strict_json() -> None:
    summary = summarise([], before={}, after={}, policy_r2=math.nan, alerts=0)
    assert json.loads(to_json(summary))["unexplained"] == {"output": None, "feature": None, "after_warm_up": False}
    assert summary["seconds"] == 0


def test_ranking_takes_each_row_by_its_highest_score_after_warm_up() -> None:
    run = accounts(1, 18)
    ranking = rank_rows(run)
    assert ranking.after_warm_up
    assert len(ranking.rows) == 60
    leading = {(r.entry.step, int(r.entry.row_id[5:]) % 10) for r in ranking.rows[:5]}
    assert leading == {where for where in PLANTED if where[0] > 12}
    scores = [r.entry.score for r in ranking.rows]
    assert scores == sorted(scores, reverse=True)


def test_row_seen_twice_is_ranked_once_with_its_first_step() -> None:
    run = accounts(12, 14)
    again = dataclasses.replace(run[0].rows[0], step=14, score=99.0)
    run[2] = dataclasses.replace(run[2], rows=(*run[2].rows, again))
    top = rank_rows(run).rows[0]
    assert (top.entry.score, top.first_step, top.times) == (99.0, 12, 2)


def test_rows_without_score_come_last() -> None:
    run = accounts(13, 13)
    rows = tuple(dataclasses.replace(r, score=math.nan) if i < 3 else r for i, r in enumerate(run[0].rows))
    ranking = rank_rows([dataclasses.replace(run[0], rows=rows)])
    assert [math.isnan(r.entry.score) for r in ranking.rows] == [False] * 7 + [True] * 3


def test_only_warm_up_is_said() -> None:
    ranking = rank_rows(accounts(1, 3))
    assert not ranking.after_warm_up
    assert len(ranking.rows) == 30
