"""A realistic run made of numbers alone: 18 steps × 10 rows, 144 probes, 40 features, a few planted rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from smda_monitor.maths.by_kind import readings_by_kind
from smda_monitor.outputs.ledger import Ledger
from smda_monitor.outputs.sink import RunHeader
from smda_monitor.outputs.summary import summarise
from smda_monitor.records.account import (
    WARM_UP_STEPS,
    FeatureShift,
    PastShare,
    RowEntry,
    StepAccount,
    TargetBalance,
)
from smda_monitor.records.alert import Alert
from smda_monitor.records.audit import AuditEntry, Reason
from smda_monitor.records.policy import Fingerprints, PolicyQuality, SymbolicPolicy
from smda_monitor.records.probes import KINDS, Probe, ProbeSet
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

STEPS, ROWS, FEATURES = 18, 10, 40
MEASURED = list(range(0, 144, 5))
COUNTS = {"harmful": 60, "lookalike": 60, "benign": 24}
TARGETS = ("S_X", "S_Y", *(f"{reading}.{kind}" for reading in ("mass", "contrast") for kind in KINDS))
PLANTED = ((4, 2), (13, 3), (14, 7), (16, 0), (17, 5), (18, 1))
"""(step, position) of the planted rows."""
WATCHED = (0, 1, 7)
"""Columns of the features that are watched; split among rows at every fourth step."""
AUDITED = (1, 13, 14, 17)
"""Steps with an audit."""
TOPICS = ("religious stereotyping", "harassment", "privacy", "fraud", "malware", "disinformation")


def make_probes() -> ProbeSet:
    """144 probes in the three kinds; a harmful one and its look-alike share a pair."""
    probes = []
    for kind, count in COUNTS.items():
        for i in range(count):
            topic = TOPICS[i % len(TOPICS)] if kind != "benign" else "everyday"
            pair = f"pair-{i:02d}" if kind != "benign" else None
            probes.append(Probe(f"{kind}-{i:02d}", f"A {kind} question number {i} about {topic}", topic, kind, pair))
    return ProbeSet(tuple(probes))


def make_policy(probes: ProbeSet) -> SymbolicPolicy:
    """A policy with 40 coefficients, most of them small."""
    g = torch.Generator().manual_seed(1)
    coef = torch.randn(FEATURES, generator=g, dtype=torch.float64) * torch.linspace(1.4, 0.05, FEATURES).double()
    width = 0.08 + 0.2 * torch.rand(FEATURES, generator=g, dtype=torch.float64)
    return SymbolicPolicy(
        preset="robust",
        alpha=31.6,
        feature_ids=tuple(37 * k + 11 for k in range(FEATURES)),
        coef=coef,
        intercept=-2.1,
        has_intercept=True,
        X=torch.rand(len(probes), FEATURES, generator=g),
        y=torch.randn(len(probes), generator=g, dtype=torch.float64),
        fit_ids=probes.ids,
        coef_low=coef - width,
        coef_high=coef + width,
        quality=PolicyQuality(r2_fit=0.968, r2_heldout=0.912, r2_constant=-0.004, n_heldout=72),
        fingerprints=Fingerprints("0f3a", "77be", "c0de", probes.fingerprint),
        notes={"recipe": "synthetic"},
    )


def level(reading: str, kind: str, step: int) -> float:
    """Refusal of one kind after `step`: harmful falls, look-alikes rise a little, benign stays."""
    start = {"harmful": 3.4, "lookalike": -3.2, "benign": -8.6}[kind]
    drift = {"harmful": -2.9, "lookalike": 1.3, "benign": 0.12}[kind]
    along = (step / STEPS) ** 1.6
    return (start + drift * along + 0.09 * math.sin(2.1 * step)) * (1.0 if reading == "mass" else 0.55)


def make_snapshot(probes: ProbeSet, step: int, positions: list[int] | None = None) -> Snapshot:
    """Features and behaviour of `positions` (default: all) after `step`."""
    g = torch.Generator().manual_seed(7)
    n = len(probes)
    base, noise = torch.rand(n, FEATURES, generator=g), torch.randn(n, generator=g, dtype=torch.float64)
    drift = torch.randn(FEATURES, generator=g) * 0.03 * step
    chosen = positions if positions is not None else list(range(n))
    mass = torch.tensor([level("mass", p.kind, step) for p in probes], dtype=torch.float64) + noise
    contrast = torch.tensor([level("contrast", p.kind, step) for p in probes], dtype=torch.float64) + noise / 2
    openings = torch.randn(n, 6, generator=g, dtype=torch.float64) - 4
    ids = tuple(probes.ids[i] for i in chosen)
    values = (mass[chosen], mass[chosen], contrast[chosen], openings[chosen])
    return Snapshot(step, ids, torch.relu(base + drift)[chosen], *values, make_health(step))


def make_health(step: int) -> DictionaryHealth:
    """FVU grows slowly; the first and last snapshot measure every probe and so find fewer dead features."""
    return DictionaryHealth(0.18 + 0.002 * step, 31.0 + math.sin(step), 0.03 if step in (0, STEPS) else 0.21)


def make_account(step: int, policy: SymbolicPolicy) -> StepAccount:
    """One account whose balances close up to a small leftover."""
    g = torch.Generator().manual_seed(100 + step)

    def draw(scale: float = 1.0) -> float:
        return scale * float(torch.randn((), generator=g))

    rows = []
    for position in range(ROWS):
        planted = (step, position) in PLANTED
        strength = 5.0 if planted else 1.0
        share = {t: draw(0.02) * strength for t in TARGETS}
        push = {t: v * 1.1 + draw(0.002) for t, v in share.items()}
        own = (2.2 if planted else 0.15) * (1 + abs(draw(0.3)))
        rows.append(
            RowEntry(
                step=step,
                row_id=f"demo-{(step - 1) * ROWS + position:03d}",
                row_hash=f"{(step - 1) * ROWS + position:016x}",
                tokens=24 + int(abs(draw(30))),
                loss=1.2 + abs(draw(0.6)),
                gradient_norm=0.8 + abs(draw(0.5)) * strength,
                share=share,
                push=push,
                own_push=own if position % 2 else -own,
                own_mass=draw(3),
                own_predicted=draw(3),
                expected=-own if planted else own,
                interference=min(1.0, abs(draw(0.25)) + (0.5 if planted else 0.1)),
                absolute_shift=(1 + position) / (8 * step),
                dominant_feature=policy.feature_ids[position % 6],
                unintended=planted or position == 9,
                answer_reading=own if planted else -own,
                score=own - 0.2 + abs(draw(0.05)),
                probe_share={"mass": (step / 8, -position / 4)},
                probe_push={"mass": (step / 4, -position / 2)},
                watched={policy.feature_ids[k]: (0.01 * (position + 1), -0.002 * k) for k in WATCHED}
                if step % 4 == 0
                else {},
            )
        )
    balances = []
    for target in TARGETS:
        shares = [r.share[target] for r in rows]
        history, decay = draw(0.05), draw(0.001)
        scale = sum(map(abs, shares)) + abs(history)
        leftover = draw(0.03 if target == "S_X" else 0.003) * scale * (4 if step <= WARM_UP_STEPS else 1)
        total = sum(shares)
        measured = total + history + decay + leftover
        absolute = sum(map(abs, shares))
        balances.append(TargetBalance(target, measured, total, history, decay, absolute, 0.9 * history, abs(history)))
    past = (PastShare("demo-000", "0" * 16, step - 1, {t: step / 100 for t in TARGETS}),) if step > 1 else ()
    refusal = {t: level(*t.split("."), step) for t in TARGETS if "." in t}
    error = {t: 0.0 if step == STEPS else 0.22 + 0.03 * i for i, t in enumerate(refusal)}
    order = sorted(range(FEATURES), key=lambda k: -abs(math.sin(k * 1.7)) - 0.2 * abs(draw()))[:16]
    features = tuple(
        FeatureShift(policy.feature_ids[k], float(policy.coef[k]), draw(0.01), draw(0.01), draw(0.01)) for k in order
    )
    return StepAccount(
        step=step,
        since=step - 1,
        warm_up=step <= WARM_UP_STEPS,
        learning_rate=1e-3 * (1 - (step - 1) / STEPS),
        clip_factor=0.8,
        capture_error=2e-6,
        balances=tuple(balances),
        rows=tuple(rows),
        past=past,
        probes={"mass.measured": (0.25, 0.5)},
        features=features,
        drift=tuple((torch.arange(FEATURES) * 1.7).sin().mul(step / STEPS).tolist()),
        refit_remainder=0.03,
        refusal=refusal,
        standard_error=error,
        health=make_health(step),
        seconds=4.1,
        watched=tuple(FeatureShift(policy.feature_ids[k], float(policy.coef[k]), 0.01, 0.02, 0.03) for k in WATCHED),
        watched_by="replay" if step % 4 == 0 else "",
    )


def make_audit(step: int, reason: Reason = "sample", error: float = 0.02, place: int = 0) -> AuditEntry:
    """A row of `make_account`'s replayed, whose push is `error` off, relatively, on every target."""
    account = make_account(step, make_policy(make_probes()))
    row = account.rows[place]
    return AuditEntry(
        step=step,
        row_id=row.row_id,
        row_hash=row.row_hash,
        warm_up=account.warm_up,
        reason=reason,
        push=row.push,
        replayed={target: value / (1 + error) for target, value in row.push.items()},
        noise=dict.fromkeys(row.push, 1e-9),
        features=account.features[:4] if reason == "asked" else (),
        refit_remainder=0.02 if reason == "asked" else math.nan,
        seconds=0.5,
    )


def make_audits(step: int) -> list[AuditEntry]:
    """A sampled row, and at every second audited step one that was asked for."""
    return [make_audit(step)] + ([make_audit(step, "asked", place=1)] if step % 2 else [])


def make_header(folder: Path) -> RunHeader:
    """Probes, policy and a manifest as the callback would give them."""
    probes = make_probes()
    manifest: dict[str, Any] = {"config": {"outputs": {"row_text": "local"}, "seed": 0}, "versions": {"torch": "2.13"}}
    manifest["meant"] = "meant of refusal: harmful up, benign down"
    manifest["measured_probes"] = [probes.ids[i] for i in MEASURED]
    return RunHeader(folder, probes, make_policy(probes), manifest)


def make_alerts() -> list[Alert]:
    """Two alerts, as the evidence of two drifts would raise them."""
    advice = "Look at these rows' text, take them out and train again from the last checkpoint."
    rows, pushes = ("demo-123", "demo-137", "demo-150"), (-0.61, -0.33, -0.12)
    of_harmful, of_lookalike = (f"mass.{kind} since step 0" for kind in ("harmful", "lookalike"))
    return [
        Alert("drift", 13, 9, "refusal of harmful probes", of_harmful, -1.74, -0.5, 812.0, rows, pushes, advice),
        Alert(
            "drift",
            17,
            17,
            "refusal of look-alike probes",
            of_lookalike,
            1.19,
            0.5,
            340.0,
            rows[1:],
            pushes[1:],
            advice,
        ),
    ]


def make_cards(policy: SymbolicPolicy, probes: ProbeSet, count: int = 10) -> list[dict[str, object]]:
    """Cards of the first `count` features."""
    words = ["sorry", " cannot", " harmful", " ethical", "<b>", " sure", " illegal", " help"]
    return [
        {
            "feature": policy.feature_ids[k],
            "coefficient": float(policy.coef[k]),
            "drift": math.sin(k * 1.7),
            "density": 0.05 + 0.08 * k,
            "top_probes": [
                {"id": p.id, "prompt": p.prompt, "activation": 3.1 - 0.4 * i - 0.1 * k}
                for i, p in enumerate(probes.probes[k * 5 : k * 5 + 4])
            ],
            "top_tokens": words[k % 4 :] + words[: k % 4],
        }
        for k in range(count)
    ]


def make_row_texts(accounts: list[StepAccount]) -> list[dict[str, str]]:
    """A prompt and an answer for every row."""
    return [
        {
            "id": row.row_id,
            "hash": row.row_hash,
            "prompt": f"How do I prepare item {row.row_id} for a family dinner?",
            "response": "I can't help with that request.\n\nIt would not be appropriate."
            if row.score > 1
            else "Of course: start early.",
        }
        for account in accounts
        for row in account.rows
    ]


def write_run(folder: Path, steps: int = STEPS, row_text: bool = True) -> list[StepAccount]:
    """Writes the whole run through a `Ledger` and returns its accounts."""
    folder.mkdir(parents=True, exist_ok=True)
    header = make_header(folder)
    ledger = Ledger(folder)
    ledger.start(header)
    ledger.snapshot(make_snapshot(header.probes, 0))
    accounts = [make_account(step, header.policy) for step in range(1, steps + 1)]
    for account in accounts:
        ledger.snapshot(make_snapshot(header.probes, account.step, None if account.step == STEPS else MEASURED))
        if account.step in AUDITED:
            ledger.audits(make_audits(account.step))
        ledger.account(account)
    for alert in make_alerts():
        ledger.alert(alert)
    if row_text:
        ledger.row_texts(make_row_texts(accounts))
    ledger.feature_cards(make_cards(header.policy, header.probes))
    audits = [audit for step in AUDITED if step <= steps for audit in make_audits(step)]
    before, after = (readings_by_kind(make_snapshot(header.probes, s), header.probes)[0] for s in (0, STEPS))
    ledger.finish(
        summarise(accounts, before=before, after=after, policy_r2=0.912, alerts=2, seconds=431.0, audits=audits)
    )
    return accounts
