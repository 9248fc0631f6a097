"""What an alert says: of a drift that the evidence (`drift`) bears out, and of accounts that miss a plain limit.

The limits, on a pathway's unexplained fraction and on the self-audit, have no error rate. A subject is alerted once per
run (the caller keeps `known`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..records.account import StepAccount
from ..records.alert import Alert
from ..records.audit import AuditEntry
from ..records.config import AlertsConfig
from .drift import Drift
from .fidelity import pooled_fidelity

LEADING_ROWS = 10
"""Rows named by an alert, at most."""
AUDITED_ROWS = 3
"""Rows replayed after warm-up from which the account's fidelity is judged."""


def limit_alerts(
    limits: AlertsConfig, account: StepAccount, known: set[str], audits: Sequence[AuditEntry] = ()
) -> list[Alert]:
    """Alerts that the latest `account` and the run's `audits` raise and that are not `known` by subject."""
    if account.warm_up:
        return []
    found = _over_limits(limits, account) + _missed(limits, account.step, audits)
    return [alert for alert in found if alert.subject not in known]


def drift_subject(behaviour: str, kind: str) -> str:
    """What an alert on the drift of `behaviour` on probes of `kind` is about."""
    return f"{behaviour} of {kind} probes"


def drift_alert(behaviour: str, found: Drift, step: int, since: int, accounts: Sequence[StepAccount]) -> Alert:
    """The alert on a drift of `behaviour` `found` at `step`, there `since` a step, by the rows of all `accounts`."""
    sign, name = found.direction.sign, f"mass.{found.direction.kind}"
    pushes: dict[str, float] = {}
    for account in accounts:
        for row in account.rows:
            pushes[row.row_id] = pushes.get(row.row_id, 0.0) + row.push.get(name, 0.0)
    ranked = sorted(pushes, key=lambda row_id: sign * pushes[row_id], reverse=True)
    rows = tuple(row_id for row_id in ranked if sign * pushes[row_id] > 0)[:LEADING_ROWS]
    return Alert(
        "drift",
        step,
        since,
        drift_subject(behaviour, found.direction.kind),
        f"{name} since step 0",
        found.mean,
        sign * found.tolerance,
        math.exp(min(found.log_evidence, 700.0)),
        rows,
        tuple(pushes[row_id] for row_id in rows),
        "Read the rows named here, take the wrong ones out and train again from the last good checkpoint.",
    )


def _over_limits(limits: AlertsConfig, account: StepAccount) -> list[Alert]:
    found = []
    if limits.unexplained is not None:
        for target, pathway in (("S_X", "feature-activation"), ("S_Y", "output-probability")):
            fraction = account.balance(target).unexplained_fraction
            if fraction > limits.unexplained:
                advice = "Lower the learning rate or read this run's row figures with care: the split does not close."
                subject = f"account of the {pathway} pathway"
                quantity = f"unexplained fraction of {target}"
                found.append(_plain(account.step, subject, quantity, fraction, limits.unexplained, advice))
    return found


def _missed(limits: AlertsConfig, step: int, audits: Sequence[AuditEntry]) -> list[Alert]:
    """Where the pushes miss their replays, on the median over rows and targets."""
    pooled = pooled_fidelity(audits)
    error = pooled.overall.relative_error
    if limits.audit is None or not pooled.after_warm_up or pooled.rows < AUDITED_ROWS or not error > limits.audit:
        return []
    advice = "Lower the learning rate, or read pushes as a ranking: replays of single rows do not bear out their sizes."
    quantity = f"median relative error of the push over {pooled.rows} replayed rows"
    return [_plain(step, "self-audit of the accounts", quantity, error, limits.audit, advice)]


def _plain(step: int, subject: str, quantity: str, value: float, limit: float, advice: str) -> Alert:
    return Alert("account", step, step, subject, quantity, value, limit, None, (), (), advice)
