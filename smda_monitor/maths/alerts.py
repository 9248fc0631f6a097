"""Plain threshold alerts: a figure crosses a limit the user set. No error rate is claimed.

Drift of refusal is judged since step 0 on the mean log-odds of one probe kind; a pathway's unexplained fraction and a
row's score are judged after warm-up. A subject is alerted once per run (the caller keeps `known`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..records.account import RowEntry, StepAccount
from ..records.alert import Alert
from ..records.audit import AuditEntry
from ..records.config import AlertsConfig, BehaviourConfig
from .fidelity import pooled_fidelity

LEADING_ROWS = 10
"""Rows named by an alert, at most."""
AUDITED_ROWS = 3
"""Rows replayed after warm-up from which the account's fidelity is judged."""


def threshold_alerts(
    limits: AlertsConfig,
    start: dict[str, float],
    accounts: Sequence[StepAccount],
    known: set[str],
    audits: Sequence[AuditEntry] = (),
    behaviour: BehaviourConfig | None = None,
) -> list[Alert]:
    """Alerts that the latest of `accounts` and the run's `audits` raise and that are not `known` by subject; `start` is
    the `behaviour` (None: refusal) at step 0."""
    account, behaviour = accounts[-1], behaviour or BehaviourConfig()
    found: list[Alert] = []
    for name, value in account.refusal.items():
        reading, kind = name.split(".", 1)
        if reading != "mass" or name not in start:
            continue
        shift = value - start[name]
        limit = limits.harmful_drop if kind == "harmful" else limits.harmless_rise
        wanted = (kind == "harmful") == (behaviour.wanted_on == "harmful")
        sign = -1.0 if wanted else 1.0
        subject = f"{behaviour.name} of {kind} probes"
        if limit is not None and sign * shift > limit and subject not in known:
            rows = _leading(accounts, lambda row, n=name, s=sign: s * row.push.get(n, 0.0))  # type: ignore[misc]
            advice = "Read the rows named here, take the wrong ones out and train again from the last good checkpoint."
            found.append(Alert(account.step, subject, f"{name} since step 0", shift, sign * limit, rows, advice))
    if not account.warm_up:
        found += _after_warm_up(limits, account) + _missed(limits, account.step, audits)
    # A row that stands twice in one step is one subject.
    first = {alert.subject: alert for alert in reversed(found)}
    return [alert for alert in found if first[alert.subject] is alert and alert.subject not in known]


def _after_warm_up(limits: AlertsConfig, account: StepAccount) -> list[Alert]:
    found = []
    if limits.unexplained is not None:
        for target, pathway in (("S_X", "feature-activation"), ("S_Y", "output-probability")):
            fraction = account.balance(target).unexplained_fraction
            if fraction > limits.unexplained:
                advice = "Lower the learning rate or read this run's row figures with care: the split does not close."
                subject = f"account of the {pathway} pathway"
                quantity = f"unexplained fraction of {target}"
                found.append(Alert(account.step, subject, quantity, fraction, limits.unexplained, (), advice))
    if limits.row_score is not None:
        for row in account.rows:
            if row.score > limits.row_score:
                advice = "Read the row: it moves refusal against what the policy expects of its own prompt."
                subject = f"row {row.row_id}"
                found.append(Alert(account.step, subject, "score", row.score, limits.row_score, (row.row_id,), advice))
    return found


def _missed(limits: AlertsConfig, step: int, audits: Sequence[AuditEntry]) -> list[Alert]:
    """Where the pushes miss their replays, on the median over rows and targets."""
    pooled = pooled_fidelity(audits)
    error = pooled.overall.relative_error
    if limits.audit is None or not pooled.after_warm_up or pooled.rows < AUDITED_ROWS or not error > limits.audit:
        return []
    advice = "Lower the learning rate, or read pushes as a ranking: replays of single rows do not bear out their sizes."
    quantity = f"median relative error of the push over {pooled.rows} replayed rows"
    return [Alert(step, "self-audit of the accounts", quantity, error, limits.audit, (), advice)]


def _leading(accounts: Sequence[StepAccount], push: Callable[[RowEntry], float]) -> tuple[str, ...]:
    """The rows with the largest summed `push` over all accounts, strongest first."""
    totals: dict[str, float] = {}
    for account in accounts:
        for row in account.rows:
            totals[row.row_id] = totals.get(row.row_id, 0.0) + push(row)
    ranked = sorted(totals, key=lambda row_id: totals[row_id], reverse=True)
    return tuple(row_id for row_id in ranked if totals[row_id] > 0)[:LEADING_ROWS]
