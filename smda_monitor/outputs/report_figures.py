"""The headline figures of a run's report, for ``smda report --json``: from its ledger alone, like the page itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .ledger_reader import LedgerView
from .ranking import intention, rank_rows
from .summary import median_unexplained

LEADING = 10
"""Rows listed; the ledger holds all."""


def report_figures(page: Path, view: LedgerView) -> dict[str, Any]:
    """``report`` (the page's path), ``status``, ``steps``, ``accounts``, ``rows``, ``refusal`` (``mass.<kind>`` in
    log-odds, ``contrast.<kind>`` in nats, at the last account), ``unexplained`` (median fraction by pathway),
    ``alerts``, ``leading_rows`` (by score) and ``summary``, the run's own closing figures, null where it has none."""
    accounts, ranked = view.accounts, rank_rows(view.accounts)
    medians, after_warm_up = median_unexplained(accounts)
    return {
        "report": str(page),
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
