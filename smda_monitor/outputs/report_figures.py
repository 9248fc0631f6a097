"""The headline figures of a report, for ``smda report --json``: from what lies in the folder alone, like the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .files import read_json
from .ledger_reader import LedgerView, read_ledger
from .ranking import intention, rank_rows
from .summary import median_unexplained

LEADING = 10
"""Rows listed; the ledger holds all."""


CLOSING = {"audit": "summary.json", "audits": "summary.json", "policy": "symbolic_policy.json"}
"""Where the figures of what is no run lie, by the manifest's ``kind``."""


def report_figures(page: Path, folder: Path) -> dict[str, Any]:
    """``report`` (the path of the `page`), and of a run its headline figures, of an audit or a policy all figures.

    Raises `ConfigError` as `read_ledger` does, and naming a file that cannot be read.
    """
    manifest = read_json(folder / "manifest.json", "manifest")
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind in CLOSING:
        return {"report": str(page), **read_json(folder / CLOSING[kind], "figures")}
    return {"report": str(page), **run_figures(read_ledger(folder))}


def run_figures(view: LedgerView) -> dict[str, Any]:
    """``status``, ``steps``, ``accounts``, ``rows``, ``refusal`` (``mass.<kind>`` in
    log-odds, ``contrast.<kind>`` in nats, at the last account), ``unexplained`` (median fraction by pathway),
    ``alerts``, ``leading_rows`` (by score) and ``summary``, the run's own closing figures, null where it has none."""
    accounts, ranked = view.accounts, rank_rows(view.accounts)
    medians, after_warm_up = median_unexplained(accounts)
    return {
        "status": view.manifest.get("status"),
        "steps": accounts[-1].step if accounts else 0,
        "accounts": len(accounts),
        "rows": len(ranked),
        "refusal": accounts[-1].refusal if accounts else {},
        "unexplained": {**medians, "after_warm_up": after_warm_up},
        "alerts": len(view.alerts),
        "leading_rows": [
            {
                "row_id": row.entry.row_id,
                "row_hash": row.entry.row_hash,
                "step": row.entry.step,
                "score": row.entry.score,
                "intention": intention(row.entry),
                "warm_up": row.warm_up,
            }
            for row in ranked[:LEADING]
        ],
        "summary": view.summary,
    }
