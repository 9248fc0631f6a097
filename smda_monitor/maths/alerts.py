"""What an alert says: of a drift that the evidence (`drift`) bears out, and of accounts that miss a plain limit.

The limits, on a pathway's unexplained fraction and on the self-audit, have no error rate. A subject is alerted once per
run (the caller keeps `known`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from ..records.account import StepAccount
from ..records.alert import Alert
from ..records.alerts_config import AlertsConfig
from ..records.audit import AuditEntry
from ..records.probes import KINDS
from .drift import Drift
from .fidelity import pooled_fidelity
from .intent import FEATURES

LEADING_ROWS = 10
"""Rows named by an alert, at most."""
AUDITED_ROWS = 3
"""Rows replayed after warm-up from which the account's fidelity is judged."""
LATEST_ROWS = 16
"""And how many at most, the latest: what began to fall short late is not hidden by all that was well before."""
OUTSTANDING_PART = 1 / 3
"""Of what the rows behind a drift pushed, where it is laid to those that stand out."""
LOW_CONFIDENCE = 0.5
"""What pushes of warm-up steps, and of steps whose audit fell short, count where an alert ranks the rows behind it."""


def limit_alerts(
    behaviour: str, limits: AlertsConfig, account: StepAccount, known: set[str], audits: Sequence[AuditEntry] = ()
) -> list[Alert]:
    """Alerts that the latest `account` of the monitor of `behaviour` and the run's `audits` raise and that are not
    `known` by subject."""
    found = [moved_outside(behaviour, account.step)] if account.outside else []
    if not account.warm_up:
        found += _over_limits(behaviour, limits, account) + _missed(behaviour, limits, account.step, audits)
    return [alert for alert in found if alert.subject not in known]


def drift_subject(behaviour: str, of: str) -> str:
    """What an alert on the drift of `behaviour` is about, by `Direction.of`."""
    whole, _, part = of.partition(".")
    if whole != FEATURES:
        return f"{behaviour} of {of} probes"
    return f"feature {part} of {behaviour}" if part else f"unintended features of {behaviour}"


def drift_alert(
    behaviour: str, found: Drift, step: int, since: int, accounts: Sequence[StepAccount], short: Collection[int] = ()
) -> Alert:
    """The alert on a drift of `behaviour` `found` at `step`, there `since` a step, by the rows of all `accounts`, those
    of warm-up and of `short` steps (`fidelity.short_steps`) ranked by `LOW_CONFIDENCE` of their pushes. One through
    features is laid to rows by their push on all that the policy explains, mean over the kinds."""
    sign, of = found.direction.sign, found.direction.of
    whole, _, part = of.partition(".")
    targets = [f"explained.{kind}" for kind in KINDS] if whole == FEATURES else [f"mass.{of}"]
    through = f" through feature {part}" if part else ""
    name = f"the policy's reading{through}" if whole == FEATURES else targets[0]
    led = "".join(f" {feature} ({drift:+.3g})," for feature, drift in found.leading)
    pushes: dict[str, float] = {}
    weighed: dict[str, float] = {}
    for account in accounts:
        for row in account.rows:
            push = sum(row.push.get(target, 0.0) for target in targets) / len(targets)
            weight = LOW_CONFIDENCE if account.warm_up or row.step in short else 1.0
            pushes[row.row_id] = pushes.get(row.row_id, 0.0) + push
            weighed[row.row_id] = weighed.get(row.row_id, 0.0) + weight * push
    ranked = sorted(pushes, key=lambda row_id: sign * weighed[row_id], reverse=True)
    rows = tuple(row_id for row_id in ranked if sign * pushes[row_id] > 0)[:LEADING_ROWS]
    return Alert(
        "drift",
        step,
        since,
        drift_subject(behaviour, of),
        f"{name} since step 0",
        found.mean,
        sign * found.tolerance,
        math.exp(min(found.log_evidence, 700.0)),
        rows,
        tuple(pushes[row_id] for row_id in rows),
        (f"Led by features{led.rstrip(',')}: see their cards. " if led else "")
        + "Read the rows named here, take the wrong ones out and train again from the last good checkpoint.",
    )


def by_outstanding(drift: Alert, outstanding: Collection[str]) -> bool:
    """Whether of what the rows named by the alert on a `drift` pushed at least `OUTSTANDING_PART` is of rows among the
    `outstanding`."""
    pushed = dict(zip(drift.rows, map(abs, drift.pushes), strict=True))
    theirs = sum(push for row_id, push in pushed.items() if row_id in outstanding)
    return theirs > 0 and theirs >= OUTSTANDING_PART * sum(pushed.values())


def moved_outside(behaviour: str, step: int) -> Alert:
    """Something other than the optimizer moved the trained parameters by the end of `step`, or after it, as the monitor
    of `behaviour` found."""
    advice = "Look which callback or loaded checkpoint changes weights: what it does is in all that is measured now."
    quantity = "times that something other than the optimizer's step moved them"
    return _plain(step, f"trained parameters under the monitor of {behaviour}", quantity, 1.0, 0.0, advice)


def _over_limits(behaviour: str, limits: AlertsConfig, account: StepAccount) -> list[Alert]:
    found = []
    if limits.unexplained is not None:
        for target, pathway in (("S_X", "feature-activation"), ("S_Y", "output-probability")):
            fraction = account.balance(target).unexplained_fraction
            if fraction > limits.unexplained:
                advice = "Lower the learning rate or read this run's row figures with care: the split does not close."
                subject = f"{pathway} pathway in the accounts of {behaviour}"
                quantity = f"unexplained fraction of {target}"
                found.append(_plain(account.step, subject, quantity, fraction, limits.unexplained, advice))
    return found


def _missed(behaviour: str, limits: AlertsConfig, step: int, audits: Sequence[AuditEntry]) -> list[Alert]:
    """Where the pushes miss their replays, on the median over the latest rows and targets."""
    pooled = pooled_fidelity(audits, LATEST_ROWS)
    error = pooled.overall.relative_error
    if limits.audit is None or not pooled.after_warm_up or pooled.rows < AUDITED_ROWS or not error > limits.audit:
        return []
    advice = "Lower the learning rate, or read pushes as a ranking: replays of single rows do not bear out their sizes."
    quantity = f"median relative error of the push over {pooled.rows} replayed rows"
    return [_plain(step, f"self-audit of the accounts of {behaviour}", quantity, error, limits.audit, advice)]


def _plain(step: int, subject: str, quantity: str, value: float, limit: float, advice: str) -> Alert:
    return Alert("account", step, step, subject, quantity, value, limit, None, (), (), advice)
