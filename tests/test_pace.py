"""The pace of a run, told what things took by a clock that is set by hand."""

from __future__ import annotations

import logging
import math

import pytest

from smda_monitor.maths.budget import FEWEST, LONGEST, ROTATION
from smda_monitor.monitor.pace import AccountSeconds, Pace
from smda_monitor.records.config import MonitorConfig

PROBES, SET = 32, 144


class Hand:
    """A clock set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def paced(hand: Hand, **config: object) -> Pace:
    pace = Pace(MonitorConfig.model_validate({"audit": {"share": 0.0}, **config}), "split", SET, PROBES, hand)
    pace.first_pass(AccountSeconds(PROBES, 0.01 * PROBES), 0)
    pace.begin()
    return pace


def take(pace: Pace, hand: Hand, steps: int, plain: float = 1.0, probe: float = 0.01, nbytes: int = 1) -> list[int]:
    """`steps` steps with their accounts; the intervals that came out."""
    found, waiting = [], 0
    for _ in range(steps):
        hand.now += plain
        with pace.working():
            waiting += 1
            if waiting >= pace.every:
                begun, seconds = hand(), probe * pace.probes
                hand.now += seconds
                pace.account_made(AccountSeconds(pace.probes, seconds, steps=waiting), hand() - begun, 0.0)
                pace.account_over()
                found.append(waiting)
                waiting = 0
            pace.step_taken(nbytes)
    return found


def test_it_stays_under_its_budget() -> None:
    hand = Hand()
    pace = paced(hand, overhead=0.05)
    intervals = take(pace, hand, 100)
    assert set(intervals) == {math.ceil(0.01 * PROBES * (1 + 1 / ROTATION) / 0.05)}
    report = pace.report()
    assert report.measured == pytest.approx(len(intervals) * 0.01 * PROBES / 100)
    assert report.measured <= 0.05


def test_when_training_slows_down_it_measures_more_often() -> None:
    hand = Hand()
    pace = paced(hand, overhead=0.05)
    take(pace, hand, 60)
    calm = pace.every
    take(pace, hand, 1, plain=500.0)
    assert pace.every == calm, "one slow step is no reason"
    take(pace, hand, 60, plain=4.0)
    assert pace.every == math.ceil(calm / 4)


def test_without_a_budget_nothing_is_chosen() -> None:
    hand = Hand()
    pace = paced(hand, account={"every": 3})
    assert take(pace, hand, 9, probe=10.0) == [3, 3, 3]
    assert (pace.probes, pace.rotation, pace.report().asked) == (PROBES, 0, None)
    assert pace.report().measured == pytest.approx(3 * 320 / 9)


def test_open_steps_must_fit_into_memory() -> None:
    hand = Hand()
    pace = paced(hand, overhead=0.01, memory_gib=1.0)
    take(pace, hand, 90, nbytes=2**28)
    assert pace.every == 4
    assert pace.probes < PROBES, "and then there are fewer probes"


def test_they_must_without_a_budget_too(caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand()
    pace = paced(hand, account={"every": 8}, memory_gib=1.0)
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        assert take(pace, hand, 9, nbytes=2**28) == [4, 4], "the fifth does not wait"
    (told,) = [record.message for record in caplog.records]
    assert "found account.every 8, 4 of whose steps fit into memory at a time" in told
    assert "1 GiB (memory_gib)" in told
    larger = paced(Hand(), account={"every": 8}, memory_gib=2.0)
    assert take(larger, hand, 9, nbytes=2**28) == [8]
    alone = paced(Hand(), memory_gib=1.0)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        assert take(alone, hand, 2, nbytes=2**31) == [1, 1], "one step always fits, and what it takes is said once"
    (told,) = [record.message for record in caplog.records]
    assert "found 2.00 GiB of one step's rows and optimizer state; expected 1 GiB (memory_gib)" in told


def test_gradients_of_probes_that_take_more_than_the_budget_are_said(caplog: pytest.LogCaptureFixture) -> None:
    pace = paced(Hand(), memory_gib=1.0)
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        pace.first_pass(AccountSeconds(PROBES, 1.0), 2**30)
        assert caplog.messages == []
        pace.first_pass(AccountSeconds(PROBES, 1.0), 3 * 2**29)
    (said,) = caplog.messages
    assert "1.50 GiB of the gradients of 32 probes" in said
    assert "1 GiB (memory_gib)" in said


def test_a_budget_that_cannot_be_kept_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand()
    pace = paced(hand, overhead=0.10)
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        take(pace, hand, 5 * LONGEST, probe=5.0)
    expected = FEWEST * 5.0 * (1 + 1 / ROTATION) / LONGEST
    (told,) = [record.message for record in caplog.records if "at the cheapest" in record.message]
    assert f"found {100 * expected:.2g} % at the cheapest, one account every 64 steps on 8 probes" in told
    assert f"{100 * (expected - 0.10):.2g} % too much; expected 10 % of plain training time" in told
    assert "What to do: raise overhead" in told
    assert (pace.every, pace.probes) == (LONGEST, FEWEST)


def test_another_choice_of_probes_every_eighth_account() -> None:
    hand = Hand()
    pace = paced(hand, overhead=2.0)
    seen = []
    for _ in range(2 * ROTATION + 1):
        seen.append(pace.rotation)
        pace.account_made(AccountSeconds(PROBES, 0.01), 0.01, 0.0)
    assert seen == [0] * ROTATION + [1] * ROTATION + [2]


def test_audits_have_a_third_of_the_plain_time_and_no_more_than_their_share() -> None:
    hand = Hand()
    pace = paced(hand, overhead=0.3, audit={"share": 1.0})
    hand.now += 10.0
    assert pace.audit_seconds(elapsed=50.0) == pytest.approx(1.0)
    assert paced(hand, overhead=0.3, audit={"share": 0.0}).audit_seconds(50.0) == 0.0
    assert paced(hand, audit={"share": 0.03}).audit_seconds(50.0) == pytest.approx(1.5)


def test_nested_work_is_counted_once() -> None:
    hand = Hand()
    pace = paced(hand)
    hand.now += 4.0
    with pace.working():
        hand.now += 1.0
        with pace.working():
            hand.now += 1.0
        assert (pace.worked, pace.plain) == (2.0, 4.0)
    assert pace.report().measured == 0.5


def test_what_hooks_take_inside_training_is_the_monitors() -> None:
    hand = Hand()
    pace = paced(hand)

    def hook(seconds: float) -> float:
        hand.now += seconds
        return 1 / seconds

    hand.now += 3.0
    assert pace.hooks.timed(hook)(2.0) == 0.5
    assert (pace.worked, pace.plain) == (2.0, 3.0)
    with pytest.raises(ZeroDivisionError):
        pace.hooks.timed(hook)(0.0)
    pace.begin()
    assert pace.worked == 0.0
