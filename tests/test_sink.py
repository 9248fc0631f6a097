"""The group: the ledger's errors stop the run, another sink's do not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_account, make_alerts, make_audit, make_header, make_snapshot

from smda_monitor.outputs.sink import RunHeader, SinkFailure, SinkGroup
from smda_monitor.records.account import StepAccount
from smda_monitor.records.alert import Alert
from smda_monitor.records.audit import AuditEntry
from smda_monitor.records.snapshot import Snapshot

EVENTS = ("start", "snapshot", "audits", "account", "alert", "finish")


class Recorder:
    """A sink that notes every call, and raises at one of them."""

    def __init__(self, raises_at: str | None = None, error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self.summary: dict[str, Any] = {}
        self._raises_at = raises_at
        self._error = error or RuntimeError("disk of somebody else is full")

    def _note(self, event: str) -> None:
        self.calls.append(event)
        if event == self._raises_at:
            raise self._error

    def start(self, run: RunHeader) -> None:
        self._note("start")

    def snapshot(self, s: Snapshot) -> None:
        self._note("snapshot")

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        self._note("audits")

    def account(self, a: StepAccount) -> None:
        self._note("account")

    def alert(self, a: Alert) -> None:
        self._note("alert")

    def finish(self, summary: dict[str, Any]) -> None:
        self.summary = summary
        self._note("finish")


def feed(group: SinkGroup, folder: Path) -> None:
    header = make_header(folder)
    group.start(header)
    group.snapshot(make_snapshot(header.probes, 0, [0]))
    group.audits([make_audit(1)])
    group.account(make_account(1, header.policy))
    group.alert(make_alerts()[0])
    group.finish({"status": "finished"})


def test_every_sink_gets_everything(tmp_path: Path) -> None:
    ledger, other = Recorder(), Recorder()
    feed(SinkGroup(ledger, [other]), tmp_path)
    assert ledger.calls == other.calls == list(EVENTS)
    assert ledger.summary == {"status": "finished"}


@pytest.mark.parametrize("event", EVENTS)
def test_failing_sink_is_dropped_and_said_once(tmp_path: Path, event: str, caplog: pytest.LogCaptureFixture) -> None:
    ledger, broken, last = Recorder(), Recorder(event), Recorder()
    group = SinkGroup(ledger, [broken, last])
    with caplog.at_level(logging.ERROR, logger="smda_monitor"):
        feed(group, tmp_path)
    assert ledger.calls == last.calls == list(EVENTS)
    assert broken.calls == list(EVENTS[: EVENTS.index(event) + 1])
    assert group.failures == [SinkFailure("Recorder", event, "RuntimeError: disk of somebody else is full")]
    assert len(caplog.records) == 1
    assert "Recorder failed at" in caplog.text
    if event != "finish":
        assert ledger.summary["sink_failures"][0]["event"] == event


@pytest.mark.parametrize("event", EVENTS)
def test_ledger_error_propagates(tmp_path: Path, event: str) -> None:
    other = Recorder()
    with pytest.raises(RuntimeError, match="disk"):
        feed(SinkGroup(Recorder(event), [other]), tmp_path)
    assert event not in other.calls


def test_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        feed(SinkGroup(Recorder(), [Recorder("account", KeyboardInterrupt())]), tmp_path)


def test_a_slow_sink_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once it has taken more than half a minute, and more than a tenth of the run."""
    time = [0.0]

    class Slow(Recorder):
        def account(self, a: StepAccount) -> None:
            super().account(a)
            time[0] += 20.0

    ledger, slow, quick = Recorder(), Slow(), Recorder()
    group = SinkGroup(ledger, [slow, quick], lambda: time[0])
    header = make_header(tmp_path)
    group.start(header)
    for step in range(1, 8):
        time[0] += 250.0 if step == 1 else 10.0
        group.account(make_account(step, header.policy))
    group.finish({})
    assert slow.calls == ["start", "account", "account"], "40 s of 300 are more than a tenth"
    assert quick.calls == ledger.calls == ["start", *["account"] * 7, "finish"]
    assert [(f.sink, f.event) for f in group.failures] == [("Slow", "account")]
    assert "it has taken 40 s of 300" in caplog.text


def test_the_end_may_take_its_time(tmp_path: Path) -> None:
    time = [0.0]

    class Uploads(Recorder):
        def finish(self, summary: dict[str, Any]) -> None:
            super().finish(summary)
            time[0] += 100.0

    uploads = Uploads()
    group = SinkGroup(Recorder(), [uploads], lambda: time[0])
    group.finish({})
    assert uploads.calls == ["finish"]
    assert group.failures == []
