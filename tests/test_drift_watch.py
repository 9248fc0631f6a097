"""When the whole set is looked at for a drift, by which probes it is judged, and what a real run makes of it."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from test_alerts import account
from test_run_resume import KillAfter, Killed, kill

from smda_monitor.callback import SMDACallback
from smda_monitor.maths.alerts import drift_alert
from smda_monitor.maths.drift import likely_rate, log_e_value
from smda_monitor.maths.intent import FEATURES, Direction
from smda_monitor.monitor.drift_watch import DriftWatch
from smda_monitor.outputs.ledger_reader import LedgerView, read_ledger
from smda_monitor.records.account import StepAccount, TargetBalance
from smda_monitor.records.alerts_config import AlertsConfig
from smda_monitor.records.config import BehaviourConfig
from smda_monitor.records.probes import KINDS, Probe, ProbeSet
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

COUNT, SCREENED = 30, 6
PROBES = ProbeSet(tuple(Probe(f"{kind}-{i}", "?", "fraud", kind) for kind in KINDS for i in range(COUNT)))
START = dict.fromkeys((f"mass.{kind}" for kind in KINDS), 0.0)


def instruments(alerts: AlertsConfig, screened: int = SCREENED) -> Any:
    chosen = [p.id for p in PROBES if int(p.id.split("-")[1]) < screened]
    config = SimpleNamespace(alerts=alerts, behaviour=BehaviourConfig())
    return SimpleNamespace(
        bench=SimpleNamespace(config=config, probes=PROBES),
        plan=SimpleNamespace(probe_ids=tuple(chosen)),
        policy=SimpleNamespace(coef=torch.tensor([5.0, 1.0, -1.0], dtype=torch.float64), feature_ids=(40, 41, 42)),
    )


def whole(step: int, screened: float = 0.0, witnesses: float = 0.0, X: tuple[float, ...] = (1.0, 0.0, 0.0)) -> Snapshot:
    """Of all kinds: the screened probes at one log-odds, the witnesses at another; all with the same features."""
    numbers = torch.tensor([int(p.id.split("-")[1]) for p in PROBES])
    mass = torch.where(numbers < SCREENED, screened, witnesses).double()
    nothing = torch.zeros(len(PROBES), 1)
    features = torch.tensor([X]).expand(len(PROBES), -1)
    return Snapshot(step, PROBES.ids, features, mass, mass, mass, nothing, DictionaryHealth(0.0, 0.0, 0.0))


def stepped(
    one: DriftWatch,
    step: int,
    known: tuple[str, ...] = (),
    X: tuple[float, ...] = (1.0, 0.0, 0.0),
    scatter: float = 0.0,
    **mass: float,
) -> bool:
    """Another account, by the plan's probes: their log-odds by kind, each second one so much over or under, and the
    features of all; whether a look is due."""
    refusal = {**START, **{f"mass.{kind}": value for kind, value in mass.items()}}
    drift = tuple(after - before for after, before in zip(X, (1.0, 0.0, 0.0), strict=True))
    one.note(replace(account(step=step), refusal=refusal, drift=drift), START)
    measured = whole(step, X=X).part([p.id for p in PROBES if int(p.id.split("-")[1]) < SCREENED])
    by_probe = torch.tensor([mass.get(i.split("-")[0], 0.0) for i in measured.probe_ids], dtype=torch.float64)
    by_probe[::2] += scatter
    by_probe[1::2] -= scatter
    return one.due(replace(measured, mass=by_probe), known)


def watch(screened: int = SCREENED, changes: bool = False, **alerts: Any) -> DriftWatch:
    return DriftWatch(instruments(AlertsConfig(**alerts), screened), whole(0), changes)


def test_a_look_is_due_where_witnesses_that_drift_as_the_plan_does_would_decide_it() -> None:
    one = watch()
    assert not stepped(one, 1, harmful=-0.4, benign=0.4)
    assert not stepped(one, 2, harmful=9.0, benign=-9.0), "as meant"
    assert not stepped(one, 3, harmful=-0.6, scatter=0.5), "beyond the tolerance, by too little to tell"
    assert stepped(one, 4, harmful=-0.7)
    assert not stepped(one, 5, ("refusal of harmful probes",), harmful=-0.7), "alerted already"
    assert stepped(one, 6, ("refusal of harmful probes",), harmful=-0.7, lookalike=0.7)
    assert not stepped(watch(false_alarm=None), 1, harmful=-9.0)
    assert not stepped(watch(screened=COUNT - 2), 1, harmful=-9.0), "two witnesses can decide nothing"


def test_the_more_looks_there_were_the_longer_the_next_one_waits() -> None:
    one, looked = watch(), []
    for step in range(1, 16):
        if stepped(one, step, benign=1.0):
            looked.append(step)
            one.look(whole(step))
    assert looked == [1, 2, 4, 7, 11]


def test_witnesses_judge_and_the_screened_probes_do_not() -> None:
    one = watch()
    assert stepped(one, 4, benign=2.0)
    one.look(whole(4, screened=2.0, witnesses=0.4))
    assert one.found(whole(4, 2.0, 0.4), ()) == []
    stepped(one, 5, benign=2.0)
    one.look(seen := whole(5, screened=2.0, witnesses=1.5))
    found = {drift.direction.of: (drift, since) for drift, since in one.found(seen, ())}
    assert set(found) == {"lookalike", "benign"}, "up is meant on harmful probes"
    drift, since = found["benign"]
    assert since == 4
    assert drift.mean == pytest.approx((SCREENED * 2.0 + (COUNT - SCREENED) * 1.5) / COUNT)
    assert found["lookalike"][1] == 5, "no account has shown it before"
    assert [d.direction.of for d, _ in one.found(seen, {"refusal of benign probes"})] == ["lookalike"]


def test_the_plans_probes_say_how_boldly_to_bet() -> None:
    """They drift as the witnesses do, or not at all: the same witnesses bear out more, or as much as without them."""

    def evidence(screened: float, witnesses: float) -> float:
        one = watch()
        stepped(one, 1, benign=screened)
        one.look(seen := whole(1, screened=screened, witnesses=witnesses))
        return next(drift.log_evidence for drift, _ in one.found(seen, ()) if drift.direction.of == "benign")

    told, untold = evidence(2.0, 2.0), evidence(0.0, 2.0)
    alone = log_e_value(torch.full((COUNT - SCREENED,), 2.0, dtype=torch.float64), 1.0, 0.5) - math.log(2)
    assert untold == pytest.approx(alone), "no drift of theirs, no bet on it"
    rate = likely_rate(torch.full((SCREENED,), 2.0, dtype=torch.float64), 0.0, 1.0, 0.5)
    known = log_e_value(torch.full((COUNT - SCREENED,), 2.0, dtype=torch.float64), 1.0, 0.5, rate) - math.log(2)
    assert told == pytest.approx(known)
    assert known != pytest.approx(alone)


def test_features_that_the_policy_does_not_rest_on_are_judged_together() -> None:
    one = watch()
    assert not stepped(one, 1, X=(10.0, 0.2, -0.2)), "what it rests on may move, and 0.4 nats are within the tolerance"
    assert stepped(one, 2, X=(1.0, 0.2, -0.6))
    one.look(seen := whole(2, X=(1.0, 0.2, -0.9)))
    (drift, since), (single, _) = one.found(seen, ())
    assert (drift.direction, since) == (Direction(FEATURES, 1.0), 2)
    assert single.direction == Direction("features.42", 1.0)
    assert drift.mean == pytest.approx(0.2 + 0.9)
    assert drift.leading == ((42, pytest.approx(0.9)), (41, pytest.approx(0.2)))
    alert = drift_alert("refusal", drift, 2, since, [])
    assert alert.subject == "unintended features of refusal"
    assert "Led by features 42 (+0.9), 41 (+0.2): see their cards." in alert.advice
    assert not stepped(watch(intent={"features": "any"}), 2, X=(1.0, 0.2, -0.6))


def test_a_feature_that_hides_behind_another_is_judged_by_itself() -> None:
    one = watch()
    assert stepped(one, 1, X=(1.0, 0.9, 0.95))
    one.look(seen := whole(1, X=(1.0, 0.9, 0.95)))
    found = {drift.direction: drift for drift, _ in one.found(seen, ())}
    assert set(found) == {Direction("features.41", 1.0), Direction("features.42", -1.0)}, "together they do not move"
    alert = drift_alert("refusal", found[Direction("features.42", -1.0)], 1, 1, [])
    assert (alert.subject, alert.value) == ("feature 42 of refusal", pytest.approx(-0.95))
    assert alert.quantity == "the policy's reading through feature 42 since step 0"
    assert "Led by features 42 (-0.95): see their cards." in alert.advice
    assert not stepped(one, 2, ("feature 41 of refusal", "feature 42 of refusal"), X=(1.0, 0.9, 0.95))
    assert not stepped(watch(), 1, X=(9.0, 0.4, 0.4)), "what the policy rests on is not among them"


def test_a_feature_that_is_declared_goes_its_own_way_and_is_left_out_of_the_others() -> None:
    def alerted(X: tuple[float, ...], **declared: Any) -> set[Direction]:
        one = watch(intent={"single_features": declared["features"]})
        if not stepped(one, 1, X=X):
            return set()
        one.look(seen := whole(1, X=X))
        return {drift.direction for drift, _ in one.found(seen, ())}

    moved = (1.0, 0.0, -1.0)  # feature 42 has w = −1: the policy reads 1 nat more through it
    assert alerted(moved, features={}) == {Direction(FEATURES, 1.0), Direction("features.42", 1.0)}
    assert alerted(moved, features={42: "up"}) == alerted(moved, features={42: "any"}) == set()
    assert alerted(moved, features={42: "down"}) == {Direction("features.42", 1.0)}
    rests_on = (2.0, 0.0, 0.0)  # w = 5 on feature 40
    assert alerted(rests_on, features={}) == set()
    assert alerted(rests_on, features={40: "still"}) == {Direction("features.40", 1.0)}


def test_a_category_that_drifts_while_its_kind_does_not() -> None:
    kinds = [(kind, category) for kind in KINDS for category in ("fraud", "malware")]
    probes = ProbeSet(tuple(Probe(f"{k}-{c}-{i}", "?", c, k) for k, c in kinds for i in range(COUNT)))

    def seen(step: int, **mass: float) -> Snapshot:
        about = torch.tensor([mass.get(f"{p.kind}_{p.category}", 0.0) for p in probes], dtype=torch.float64)
        nothing = torch.zeros(len(probes), 1)
        X = torch.tensor([[1.0, 0.0, 0.0]]).expand(len(probes), -1)
        return Snapshot(step, probes.ids, X, about, about, about, nothing, DictionaryHealth(0.0, 0.0, 0.0))

    def noted(step: int, moved: float) -> StepAccount:
        balances = (TargetBalance("mass.benign.fraud", moved, moved, 0.0, 0.0, abs(moved)),)
        return replace(account(step=step), refusal=START, drift=(0.0, 0.0, 0.0), balances=balances)

    given = instruments(AlertsConfig())
    given.bench.probes, given.plan.probe_ids = probes, tuple(p.id for p in probes if p.id.endswith("-0"))
    one = DriftWatch(given, seen(0), False)
    moved = seen(6, benign_fraud=1.2)
    for step, by in ((1, 0.3), (2, 0.1), (3, 0.4), (4, -0.2), (5, 0.6), (6, 0.0)):
        one.note(noted(step, by), START)
    assert one.due(moved.part(given.plan.probe_ids), ())
    one.look(moved)
    ((drift, since),) = one.found(moved, ())
    assert (drift.direction, since) == (Direction("benign.fraud", 1.0), 3), "0.8, then 0.6 and 1.2 nats since the start"
    assert drift.mean == pytest.approx(1.2)
    alert = drift_alert("refusal", drift, 6, since, [])
    assert (alert.subject, alert.quantity) == ("refusal of benign.fraud probes", "mass.benign.fraud since step 0")


@pytest.mark.parametrize(("screened", "changes"), [(COUNT, False), (SCREENED, True)])
def test_where_all_probes_are_witnesses_every_account_counts_as_a_look(screened: int, changes: bool) -> None:
    early, late = watch(screened, changes), watch(screened, changes)
    for step in range(1, 101):
        stepped(late, step)
    for one, step in ((early, 1), (late, 101)):
        assert stepped(one, step, benign=2.0)
        one.look(whole(step, 2.0, 2.0))
    (first, _), (after, _) = (next(iter(one.found(whole(1, 2.0, 2.0), ()))) for one in (early, late))
    assert first.log_evidence - after.log_evidence == pytest.approx(
        float(torch.tensor(101.0 * 102 / 2).log()), abs=1e-5
    )


def test_too_few_witnesses_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        watch().warn()
        watch(false_alarm=None, screened=COUNT - 2).warn()
        assert not caplog.records
        watch(screened=COUNT - 2).warn()
    assert "2 for harmful, 2 for lookalike, 2 for benign, 6 for features" in caplog.text
    assert "at least 10" in caplog.text


ALERTS = {
    "false_alarm": 0.05,
    "tolerance": 0.05,
    "intent": {**dict.fromkeys(KINDS, "still"), "features": "any"},
    "unexplained": None,
}
"""Six directions are judged."""


def trained(
    folder: Path,
    run: Path,
    alerts: Any,
    extra: list[Any],
    resume: bool = False,
    per_step: int = 12,
    every: int = 1,
    steps: int = 6,
    save: str = "steps",
    **arguments: Any,
) -> tuple[Any, LedgerView]:
    """A run on rows that all refuse, with thirty probes of each kind: (trainer, ledger)."""
    config = tiny.tiny_config(run) | {"alerts": alerts, "account": {"every": every}}
    config["probes"] |= {"file": str(tiny.write_prompts(run / "many.jsonl", 90, 400)), "per_step": per_step}
    rows = tiny.tiny_rows().filter(lambda row: row["completion"][0]["content"].startswith("No"))
    callback = SMDACallback(config, **arguments)
    trainer = tiny.tiny_trainer(
        folder, [callback, *extra], rows=rows, max_steps=steps, learning_rate=3e-2, save_strategy=save, save_steps=3
    )
    try:
        trainer.train(resume_from_checkpoint=str(folder / "trainer" / "checkpoint-3") if resume else None)
    finally:
        kill(callback)
    return trainer, read_ledger(run / "run")


def test_a_run_alerts_on_a_drift_once_and_a_resumed_one_finds_the_same(tmp_path: Path) -> None:
    trainer, view = trained(tmp_path / "a", tmp_path / "whole", ALERTS, [])
    subjects = [alert.subject for alert in view.alerts]
    assert len(subjects) == len(set(subjects)) > 0
    alert = view.alerts[0]
    assert alert.evidence is not None
    assert alert.evidence >= 6 / 0.05
    assert alert.rows
    assert len(alert.rows) == len(alert.pushes)
    assert all(push * alert.threshold > 0 for push in alert.pushes)
    assert alert.value * alert.threshold > 0
    assert 0 < alert.since <= alert.step
    assert alert.step in view.snapshots.steps, "what it was judged on is kept"
    assert "Alerts" in (tmp_path / "whole" / "run" / "report.html").read_text(encoding="utf-8")

    with pytest.raises(Killed):
        trained(tmp_path / "b", tmp_path / "broken", ALERTS, [KillAfter(5)])
    _, resumed = trained(tmp_path / "b", tmp_path / "broken", ALERTS, [], resume=True)
    found = {a.subject: (a.step, a.since, a.evidence) for a in resumed.alerts}
    assert found == {a.subject: (a.step, a.since, pytest.approx(a.evidence, rel=1e-3)) for a in view.alerts}
    manifest = json.loads((tmp_path / "broken" / "run" / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["meant"].startswith("meant of refusal: harmful still, lookalike still, benign still, features any;")

    plain, quiet = trained(tmp_path / "c", tmp_path / "quiet", {**ALERTS, "tolerance": 1e3}, [])
    assert quiet.alerts == []
    assert quiet.snapshots.steps == [0, 6], "no look without need"
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other), "looks leave training alone"


def test_where_an_account_measures_the_whole_set_it_is_the_look(tmp_path: Path) -> None:
    _, view = trained(tmp_path, tmp_path / "run", ALERTS, [], per_step=0)
    step = view.alerts[0].step
    account, look = view.accounts[step - 1], view.snapshots[view.snapshots.steps.index(step)]
    assert look.probe_ids == account.probe_ids == view.probes.ids
    harmful = [i for i, probe in enumerate(view.probes) if probe.kind == "harmful"]
    assert account.refusal["mass.harmful"] == pytest.approx(float(look.mass[harmful].mean()), rel=1e-12)
