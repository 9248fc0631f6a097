"""What is done at an alert: rows to review, the user's function, and a clean stop."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_alerts, make_header
from test_drift_watch import ALERTS, trained

from smda_monitor.maths.alerts import by_outstanding
from smda_monitor.outputs.review import NAME, ReviewSink
from smda_monitor.outputs.sink import Past
from smda_monitor.records.account import WARM_UP_STEPS
from smda_monitor.records.alert import Alert


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / NAME).read_text(encoding="utf-8").splitlines()]


def test_an_alert_that_stops_leaves_a_checkpoint_a_closed_ledger_and_a_report(tmp_path: Path) -> None:
    seen: list[Alert] = []
    alerts = {**ALERTS, "stop": ["drift"]}
    trainer, view = trained(tmp_path, tmp_path / "run", alerts, [], save="no", on_alert=seen.append)
    step = view.alerts[0].step
    assert trainer.state.global_step == step < 6
    assert (tmp_path / "trainer" / f"checkpoint-{step}" / "trainer_state.json").is_file()
    assert view.manifest["status"] == "finished"
    assert [account.step for account in view.accounts] == list(range(1, step + 1))
    assert view.summary is not None
    assert view.summary["alerts"] == len(view.alerts) == len(seen)
    assert [alert.subject for alert in seen] == [alert.subject for alert in view.alerts]
    assert (tmp_path / "run" / "run" / "report.html").is_file()
    to_review = lines(tmp_path / "run" / "run")
    assert [line["id"] for line in to_review] == [row for alert in view.alerts for row in alert.rows]
    assert all(line["reason"] and line["step"] == step for line in to_review)


def test_rows_that_stand_out_are_named_after_warm_up_and_stop_a_run(tmp_path: Path) -> None:
    seen: list[Alert] = []
    alerts = {
        "false_alarm": None,
        "unexplained": None,
        "audit": None,
        "row_rate": 0.9,
        "row_tolerance": 0,
        "stop": ["rows"],
    }
    trainer, view = trained(tmp_path, tmp_path / "run", alerts, [], steps=20, save="no", on_alert=seen.append)
    (alert,) = view.alerts
    assert WARM_UP_STEPS < alert.step == trainer.state.global_step < 20
    assert seen == [alert]
    assert alert.kind == "rows"
    assert alert.subject.endswith(" by refusal")
    settled = {row.row_id for account in view.accounts if not account.warm_up for row in account.rows}
    assert set(alert.rows) <= settled
    assert [line["id"] for line in lines(tmp_path / "run" / "run")] == list(alert.rows)
    assert (tmp_path / "trainer" / f"checkpoint-{alert.step}" / "trainer_state.json").is_file()


def test_drift_that_no_row_that_stands_out_is_behind_is_left_alone_where_asked(tmp_path: Path) -> None:
    alerts = {**ALERTS, "unexplained": None, "audit": None, "row_rate": 0.9, "row_tolerance": 0}
    views = {}
    for drift_by in ("any", "outstanding"):
        folder = tmp_path / drift_by
        views[drift_by] = trained(folder, folder / "run", {**alerts, "drift_by": drift_by}, [], steps=20)[1]
    drifts = {name: [a for a in view.alerts if a.kind == "drift"] for name, view in views.items()}
    rows = [a for a in views["outstanding"].alerts if a.kind == "rows"]
    for drift in drifts["outstanding"]:
        named = {row for a in rows if a.step <= drift.step for row in a.rows}
        assert by_outstanding(drift, named)
    assert min(a.step for a in drifts["any"]) <= WARM_UP_STEPS < min(a.step for a in rows), "no row is named before"
    assert drifts["outstanding"], "and what they push is alerted"


def test_the_reason_says_what_a_row_pushed(tmp_path: Path) -> None:
    first, _ = make_alerts()
    sink = ReviewSink()
    sink.start(make_header(tmp_path))
    alone = "the policy's reading through feature 42 since step 0"
    for alert in (first, replace(first, quantity=alone), replace(first, kind="rows", quantity="score")):
        sink.alert(replace(alert, rows=("a",), pushes=(-0.61,)))
    drift, feature, rows = (line["reason"] for line in lines(tmp_path))
    assert drift.startswith("It pushed mass.harmful by -0.61 nats, the way it drifted: ")
    assert feature.startswith("It pushed the policy's reading by -0.61 nats, the way it drifted: ")
    assert rows.startswith("Its score stands out, and it pushed the contrast of its own prompt by -0.61 nats: ")


def test_alerts_of_the_last_snapshot_reach_the_function(tmp_path: Path) -> None:
    seen: list[Alert] = []
    trainer, view = trained(tmp_path, tmp_path / "run", ALERTS, [], every=7, on_alert=seen.append)
    assert [account.step for account in view.accounts] == [3, 6], "at the checkpoints alone"
    assert [alert.subject for alert in seen] == [alert.subject for alert in view.alerts]
    assert seen
    assert trainer.state.global_step == 6


def test_a_function_that_fails_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(alert: Alert) -> None:
        raise RuntimeError("no pager")

    with caplog.at_level(logging.ERROR, "smda_monitor"):
        trainer, view = trained(tmp_path, tmp_path / "run", {**ALERTS, "stop": ["account"]}, [], on_alert=fail)
    assert trainer.state.global_step == 6
    assert len(view.accounts) == 6
    assert view.alerts
    assert "no pager" in caplog.text
    assert "Training goes on" in caplog.text


def test_a_resumed_run_drops_what_lies_after_its_checkpoint(tmp_path: Path) -> None:
    first, second = make_alerts()
    sink = ReviewSink()
    sink.start(header := make_header(tmp_path))
    sink.alert(first)
    sink.alert(second)
    assert len(lines(tmp_path)) == len(first.rows) + len(second.rows)
    assert "mass.harmful by -0.61 nats" in lines(tmp_path)[0]["reason"]
    again = ReviewSink()
    again.start(replace(header, past=Past(alerts=(first,))))
    assert {line["alert"] for line in lines(tmp_path)} == {first.subject}
    again.alert(second)
    assert [line["id"] for line in lines(tmp_path)] == [*first.rows, *second.rows]
