"""The page of a monitored run: reads the ledger, draws the figures, fills the template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError, describe
from ...maths.by_kind import readings_by_kind
from ...records.account import is_leading
from ...records.snapshot import Snapshot
from ..files import to_json
from ..ledger_reader import LedgerView, read_ledger
from ..ranking import intention, rank_rows
from ..snapshots import snapshot_files
from ..text import percent
from .audit import audit_section
from .by_step import READINGS, Ends, effects_figure, health_figures, parts_figure, refusal_figure, unexplained_figure
from .figure import Figure
from .ranked import balance_figure, coefficients_figure, drift_figure, rows_figure
from .rendering import render_page, share_of
from .verdict import Verdict, verdict
from .watched import watched_section

TABLE_ROWS = 20
"""Rows in the table under the ranking."""
CARDS = 10
"""Feature cards shown, by |drift · w|."""


def run_page(folder: str | Path) -> str:
    """The page of the run in `folder`. Row text is shown only where ``rows.jsonl`` exists. Raises `ConfigError` as
    `read_ledger` does; a ledger without accounts gives a page that says so."""
    return render_page("run.html", _context(read_ledger(folder)))


def _context(view: LedgerView) -> dict[str, Any]:
    start = _start(view, 0)
    ends = _ends(view)
    before, after = _before_and_after(view, ends)
    ranking = rank_rows(view.accounts)
    cards = view.feature_cards[:CARDS]
    judged = verdict(view, ranking, before, after)
    return {
        "view": view,
        "verdict": judged,
        "figures": _figures(view, start, ends, judged)
        | {"rows": [rows_figure(ranking), effects_figure(view.accounts)] if ranking else []},
        "intention": intention,
        "shown_rows": ranking[:TABLE_ROWS],
        "cards": cards,
        "share": share_of(max((abs(p.activation) for c in cards for p in c.top_probes), default=0.0)),
        "audit": audit_section(view.audits),
        "watched": watched_section(view.accounts),
        "replayed": any(a.method == "replay" for a in view.accounts),
        "policy": view.manifest.get("policy") or {},
        "quality": (view.manifest.get("policy") or {}).get("quality") or {},
        "manifest_json": to_json(view.manifest, indent=2),
        "rows_seen": len({(r.row_hash, r.row_id) for a in view.accounts for r in a.rows}),
        "seconds": sum(a.seconds for a in view.accounts),
        "added": _added(view),
    }


def _figures(view: LedgerView, start: Snapshot | None, ends: Ends, judged: Verdict) -> dict[str, list[Figure]]:
    accounts = view.accounts
    coefficients = [coefficients_figure(view.coefficients)] if view.coefficients else []
    if not accounts:
        names = ("refusal", "drift", "balance", "steps", "health")
        return {name: [] for name in names} | {"coefficients": coefficients}
    before = readings_by_kind(start, view.probes) if start else ({}, {})
    every_step = start is not None and len(start.probe_ids) == len(view.probes)
    targets = list(dict.fromkeys(b.target for a in accounts for b in a.balances if is_leading(b.target)))
    pathways = [t for t in targets if t.startswith("S_")]
    others = [t for t in targets if not t.startswith("S_")]
    balance = []
    if pathways:
        balance.append(
            balance_figure("balance-policy", "Policy pathways", "shift of S (policy units)", pathways, accounts)
        )
    if others:
        balance.append(balance_figure("balance-refusal", judged.title, "shift (nats)", others, accounts))
    return {
        "refusal": [refusal_figure(reading, accounts, before, ends, judged.behaviour) for reading in READINGS],
        "drift": [drift_figure(accounts, view.coefficients)] if view.coefficients else [],
        "balance": balance,
        "steps": [*(parts_figure(target, accounts) for target in pathways), unexplained_figure(accounts)],
        "health": health_figures(accounts, start.health if start and every_step else None),
        "coefficients": coefficients,
    }


def _start(view: LedgerView, account: int) -> Snapshot | None:
    """The probes of an account, by its place, as they were at step 0; None where that snapshot was not kept.

    Raises `ConfigError` where it does not hold one of them.
    """
    if not view.snapshots or view.snapshots.steps[0] != 0:
        return None
    own = view.accounts[account].probe_ids if view.accounts else ()
    measured = [str(name) for name in own or view.manifest.get("measured_probes") or view.probes.ids]
    first = view.snapshots[0]
    missing = sorted(set(measured) - set(first.probe_ids))
    if missing:
        path = snapshot_files(view.folder)[0]
        found = f"{len(missing)} measured probes that are not in it, first {missing[0]!r}"
        remedy = "restore both the snapshot and the ledger from a copy of this run"
        raise ConfigError(describe(str(path), found, "every probe that an account measures", remedy))
    return first.part(measured)


def _ends(view: LedgerView) -> Ends:
    """The first and the last measurement of the whole set, those that were kept."""
    steps = view.snapshots.steps
    if not steps or not view.accounts:
        return []
    kept = {steps[0]: 0, steps[-1]: -1} if steps[-1] == view.accounts[-1].step else {steps[0]: 0}
    whole = {step: view.snapshots[at] for step, at in kept.items()}
    return [(s, readings_by_kind(w, view.probes)[0]) for s, w in whole.items() if len(w.probe_ids) == len(view.probes)]


def _before_and_after(view: LedgerView, ends: Ends) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Refusal by reading and kind at both ends, of the same probes: of the whole set where it was measured at both,
    else of those of the last account."""
    if len(ends) == 2:
        return ends[0][1], ends[1][1]
    start = _start(view, -1)
    if start is None or not view.accounts:
        return {}, {}
    return readings_by_kind(start, view.probes)[0], view.accounts[-1].refusal


def _added(view: LedgerView) -> str | None:
    """What the monitor added to plain training, as text; None where the run has not said."""
    overhead = (view.summary or {}).get("overhead") or {}
    measured = overhead.get("measured")
    return percent(measured) if isinstance(measured, int | float) else None
