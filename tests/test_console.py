"""The console: plain lines in a log, a bar on a terminal, and hostile text inert in both."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_run import make_account, make_alerts, make_audit, make_header, write_run

from smda_monitor.outputs.console import ConsoleSink
from smda_monitor.outputs.summary import audit_line, overhead_line
from smda_monitor.outputs.text import duration, number, percent, plain
from smda_monitor.records.alert import Alert
from smda_monitor.records.audit import AuditEntry

HOSTILE = "\x1b[31m[bold red]row[/bold red] [link=http://x.test]go[/link] \x07\u202etxt\r\nnext :warning:"


def run(
    folder: Path,
    steps: int,
    terminal: bool = False,
    row_id: str | None = None,
    alerts: tuple[Alert, ...] = (),
    audits: Sequence[AuditEntry] = (),
) -> str:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=terminal, color_system=None)
    header = make_header(folder)
    sink = ConsoleSink(18, console)
    sink.start(header)
    for step in range(1, steps + 1):
        account = make_account(step, header.policy)
        if row_id is not None:
            rows = tuple(dataclasses.replace(r, row_id=f"{row_id}{i}") for i, r in enumerate(account.rows))
            account = dataclasses.replace(account, rows=rows)
        sink.account(account)
    if audits:
        sink.audits(audits)
    for alert in alerts:
        sink.alert(alert)
    sink.finish({"status": "finished"})
    return out.getvalue()


def test_log_is_plain_lines_with_time_left(tmp_path: Path) -> None:
    text = run(tmp_path, 18)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "smda: meant of refusal: harmful up, benign down\n" in text
    assert "step 9/18 (50 %), " in text
    assert " left; refusal log-odds: harmful +" in text
    assert "step 18/18 (100 %); refusal" in text
    assert text.count("refusal log-odds") == 18  # a short run says every step


def test_long_run_says_a_twentieth(tmp_path: Path) -> None:
    out = io.StringIO()
    header = make_header(tmp_path)
    sink = ConsoleSink(400, Console(file=out, width=120))
    sink.start(header)
    account = make_account(1, header.policy)
    for step in range(1, 401):
        sink.account(dataclasses.replace(account, step=step, since=step - 1))
    assert out.getvalue().count("refusal log-odds") == 21  # the first step and every twentieth


def test_accounts_of_several_steps_are_said_as_often_and_timed_by_step(tmp_path: Path) -> None:
    out = io.StringIO()
    header = make_header(tmp_path)
    sink = ConsoleSink(400, Console(file=out, width=120))
    sink.start(header)
    sink._began -= 70  # the first seven steps took 70 s
    account = make_account(1, header.policy)
    for step in range(7, 400, 7):
        sink.account(dataclasses.replace(account, step=step, since=step - 7))
    lines = [line for line in out.getvalue().splitlines() if "refusal log-odds" in line]
    assert len(lines) == 1 + 19, "the first, and whenever another twentieth is over"
    assert "step 7/400" in lines[0]
    assert f"{duration(10 * 393)} left" in lines[0]


def test_categories_do_not_lengthen_the_balance(tmp_path: Path) -> None:
    header = make_header(tmp_path)
    out = io.StringIO()
    sink = ConsoleSink(1, Console(file=out, width=120))
    sink.start(header)
    account = make_account(1, header.policy)
    finer = dataclasses.replace(account.balances[2], target=f"{account.balances[2].target}.fraud")
    sink.account(dataclasses.replace(account, balances=(*account.balances, finer)))
    sink.finish({"status": "finished"})
    assert account.balances[2].target in out.getvalue()
    assert "fraud" not in out.getvalue()


def test_end_shows_ten_rows_the_balance_and_where_things_lie(tmp_path: Path) -> None:
    write_run(tmp_path)
    text = run(tmp_path, 18)
    table = text[text.index("Leading rows") : text.index("Balance of the accounts")]
    assert table.count("demo-") == 10
    assert "*: in warm-up, low confidence" in table
    assert "demo-165" in table  # planted
    for target in ("S_X", "S_Y", "mass.harmful", "contrast.benign"):
        assert target in text[text.index("Balance") :]
    for name in ("ledger", "manifest.json", "summary.json", "alerts.jsonl"):
        assert str(tmp_path / name) in text.replace("\n", "")
    assert "report.html" not in text  # not written, so not promised


def test_only_warm_up_is_said(tmp_path: Path) -> None:
    text = run(tmp_path, 3)
    assert "(warm-up only, low confidence)" in text


def test_the_self_audit_is_one_line_at_the_end(tmp_path: Path) -> None:
    assert "self-audit" not in run(tmp_path, 14)
    audits = [make_audit(13, place=i, error=0.031) for i in range(8)]
    text = run(tmp_path, 14, audits=audits)
    wanted = (
        "self-audit of 8 rows: pushes miss exact replays by 3.1 % (median), right sign 100 %, rank correlation 1.00"
    )
    assert f"{wanted} (after warm-up)" in " ".join(text.split())
    assert "1 row:" in audit_line([make_audit(2)])
    assert "rank correlation n/a (warm-up only, low confidence)" in audit_line([make_audit(2)])


def test_no_account_is_said(tmp_path: Path) -> None:
    assert "no step was accounted for" in run(tmp_path, 0)


def test_alert_is_one_line_with_rows_and_advice(tmp_path: Path) -> None:
    lines = [line for line in run(tmp_path, 1, alerts=tuple(make_alerts())).splitlines() if "ALERT" in line]
    assert len(lines) == 2
    assert "refusal of harmful probes" in lines[0]
    assert "demo-123" in lines[0]
    assert "take them out" in lines[0]


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_is_inert(tmp_path: Path, terminal: bool) -> None:
    alert = Alert("rows", 2, 2, HOSTILE, HOSTILE, 1.0, 0.5, None, (HOSTILE,), (0.1,), HOSTILE)
    text = run(tmp_path, 2, terminal, row_id=HOSTILE, alerts=(alert,))
    assert "[bold red]row[/bold red]" in text  # shown as it is, not obeyed
    assert "[link=http://x.test]go[/link]" in text
    for bad in ("\x1b[31m", "\x1b]8", "\x07", "\u202e", "⚠"):
        assert bad not in text
    assert "next" in next(line for line in text.splitlines() if "ALERT" in line)  # no line of its own making


def test_terminal_has_a_bar(tmp_path: Path) -> None:
    text = run(tmp_path, 3, terminal=True)
    assert "3/18" in text
    assert "harmful +" in text


def test_of_two_monitors_one_has_the_bar_and_the_other_is_named(tmp_path: Path) -> None:
    out = io.StringIO()
    header = make_header(tmp_path)
    sinks = [ConsoleSink(18, Console(file=out, width=120, force_terminal=True, color_system=None)) for _ in range(3)]
    first, second, later = sinks
    first.start(header)
    second.start(dataclasses.replace(header, behaviour="guessing"))
    for sink in (first, second):
        sink.account(make_account(1, header.policy))
        sink.finish({"status": "finished"})
    lines = out.getvalue().splitlines()
    (step,) = [line for line in lines if "step 1/18" in line]
    assert "smda guessing: step 1/18 (5 %)" in step
    assert "guessing log-odds: harmful +" in step
    assert any("smda guessing: finished after 1 accounts" in line for line in lines)
    later.start(header)
    later.finish({})
    assert out.getvalue().count("0/18") > 0, "with the first one gone another has the bar"


def test_plain_keeps_one_visible_line() -> None:
    assert plain("a\tb\n c\x00d\u200be") == "a b c d e"
    assert plain("abcdef", 4) == "abc…"
    assert plain("[31m") == "[31m"
    assert plain("\ud800x") == "x"


def test_figures_for_people() -> None:
    assert [number(x) for x in (2.9, -0.000313, 0.0, 123.4, float("nan"))] == [
        "+2.90",
        "-0.000313",
        "+0.00",
        "+123",
        "n/a",
    ]
    assert [percent(x) for x in (0.0183, 2.5, float("nan"))] == ["1.8 %", "250 %", "n/a"]
    assert [duration(x) for x in (0.4, 185, 7800)] == ["0 s", "3 min 05 s", "2 h 10 min"]


def test_the_cost_is_said_in_one_line() -> None:
    line = overhead_line({"asked": 0.1, "measured": 0.08, "every": 12, "probes": 32})
    expected = "the monitor added 8 % to plain training time (asked: 10 %); at the end one account every 12 steps"
    assert line == f"{expected} on 32 probes"
    unasked = overhead_line({"asked": None, "measured": 2.5, "every": 1, "probes": 32})
    assert "added 250 % to plain training time; at the end one account every step on" in unasked
