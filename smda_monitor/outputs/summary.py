"""The closing figures of a run: plain numbers for ``summary.json``, and two lines for people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..maths.fidelity import pooled_fidelity
from ..maths.interference import Pooled
from ..maths.totals import leading_balances, missed_fraction, named_fraction
from ..records.account import StepAccount
from ..records.audit import AuditEntry
from ..records.overhead import Overhead
from .text import percent

PATHWAYS = {"output": "S_Y", "feature": "S_X"}
"""The symbolic policy's pathways and their targets."""


def median_unexplained(accounts: Sequence[StepAccount]) -> tuple[dict[str, float], bool]:
    """Median of each pathway's unexplained fraction over the accounts after warm-up, or over all where there are none;
    and whether warm-up was left out. NaN for a pathway that no account has."""
    settled = [a for a in accounts if not a.warm_up]
    medians = {}
    for name, target in PATHWAYS.items():
        fractions = [b.unexplained_fraction for a in settled or accounts for b in a.balances if b.target == target]
        medians[name] = statistics.median(fractions) if fractions else float("nan")
    return medians, bool(settled)


def totals(accounts: Sequence[StepAccount]) -> dict[str, dict[str, float]]:
    """By leading target, over all accounts: ``measured`` shift, and the fractions ``missed`` and ``named`` of
    `maths.totals`."""
    return {
        target: {
            "measured": sum(balance.measured for balance in found),
            "missed": missed_fraction(found),
            "named": named_fraction(found),
        }
        for target, found in leading_balances(accounts).items()
    }


def summarise(
    accounts: Sequence[StepAccount],
    *,
    before: Mapping[str, float],
    after: Mapping[str, float],
    policy_r2: float,
    alerts: int,
    seconds: float | None = None,
    status: str = "finished",
    audits: Sequence[AuditEntry] = (),
    overhead: Overhead | None = None,
) -> dict[str, Any]:
    """The closing figures.

    `before` and `after` hold ``mass.<kind>`` and ``contrast.<kind>``, as `readings_by_kind` gives them. `seconds` is
    the command's wall time; without it, the sum of the monitor's own over the accounts. ``refusal`` is the mass reading
    (log-odds), ``refusal_contrast`` the other (nats); ``unexplained`` holds fractions, see `median_unexplained`;
    ``totals`` is what `totals` gives; ``effects`` what all rows did to the policy that their prompts did not call for,
    as `maths.interference.Pooled` has it; ``audit`` what replays of single rows said of the pushes, see
    `maths.fidelity.pooled_fidelity`; ``overhead`` what the monitor cost, as in the record, null where it was not
    measured.
    """
    pooled, effects = pooled_fidelity(audits), Pooled.of(row for account in accounts for row in account.rows)
    medians, after_warm_up = median_unexplained(accounts)
    monitor = sum(a.seconds for a in accounts) + sum(a.seconds for a in audits)
    return {
        "status": status,
        "steps": accounts[-1].step if accounts else 0,
        "accounts": len(accounts),
        "rows": len({(r.row_hash, r.row_id) for a in accounts for r in a.rows}),
        "seconds": monitor if seconds is None else seconds,
        "monitor_seconds": monitor,
        "unexplained": {**medians, "after_warm_up": after_warm_up},
        "totals": totals(accounts),
        "effects": {
            "interference": effects.interference,
            "unintended": effects.unintended,
            "dominant_feature": effects.dominant_feature,
        },
        "refusal": {"before": _reading(before, "mass"), "after": _reading(after, "mass")},
        "refusal_contrast": {"before": _reading(before, "contrast"), "after": _reading(after, "contrast")},
        "audit": {
            "rows": pooled.rows,
            "relative_error": pooled.overall.relative_error,
            "sign": pooled.overall.sign,
            "spearman": pooled.overall.spearman,
            "after_warm_up": pooled.after_warm_up,
        },
        "overhead": None if overhead is None else asdict(overhead),
        "policy_r2": policy_r2,
        "alerts": alerts,
    }


def _reading(values: Mapping[str, float], reading: str) -> dict[str, float]:
    start = f"{reading}."
    return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}


def audit_line(audits: Sequence[AuditEntry]) -> str:
    """What replays of single rows said of the pushes."""
    pooled = pooled_fidelity(audits)
    overall, which = pooled.overall, "after warm-up" if pooled.after_warm_up else "warm-up only, low confidence"
    spearman = "n/a" if math.isnan(overall.spearman) else f"{overall.spearman:.2f}"
    rows = "1 row" if pooled.rows == 1 else f"{pooled.rows} rows"
    return (
        f"self-audit of {rows}: pushes miss exact replays by {percent(overall.relative_error)} (median), right "
        f"sign {percent(overall.sign)}, rank correlation {spearman} ({which})"
    )


def overhead_line(overhead: Mapping[str, Any]) -> str:
    """What the monitor cost, and what it measured for that."""
    asked = "" if overhead["asked"] is None else f" (asked: {percent(overhead['asked'])})"
    steps = "every step" if overhead["every"] == 1 else f"every {overhead['every']} steps"
    return (
        f"the monitor added {percent(overhead['measured'])} to plain training time{asked}; at the end one "
        f"account {steps} on {overhead['probes']} probes"
    )
