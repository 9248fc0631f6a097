"""The accounts of a run added up, target by target, and what a split missed of every probe.

    missed = |Σ_t measured_t − Σ_t (shares_t + history_t + decay_t)| / |Σ_t measured_t|
    named  = Σ_t (Σ|share| + Σ|past|) / Σ_t (Σ|share| + Σ|past| + |history − handed| + |decay|)

The first: do all accounts together come to the last snapshot minus the first? The second, in [0, 1]: how much of the
sum of absolute entries stands under named rows?
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ..records.account import StepAccount, TargetBalance, is_leading


def leading_balances(accounts: Iterable[StepAccount]) -> dict[str, list[TargetBalance]]:
    """Of all `accounts`, by leading target."""
    found: dict[str, list[TargetBalance]] = {}
    for balance in (b for a in accounts for b in a.balances if is_leading(b.target)):
        found.setdefault(balance.target, []).append(balance)
    return found


def missed_fraction(balances: Iterable[TargetBalance]) -> float:
    """What all `balances` of one target together leave unexplained, of what they measured: ≥ 0; 0 where there is
    neither, inf where there is no measured shift but an unexplained one."""
    rest = measured = 0.0
    for balance in balances:
        rest += balance.unexplained
        measured += balance.measured
    return _ratio(abs(rest), abs(measured))


def named_fraction(balances: Iterable[TargetBalance]) -> float:
    """How much of all absolute entries of `balances` stands under named rows, in [0, 1]; 1 where there is no entry."""
    named = unnamed = 0.0
    for balance in balances:
        named += balance.absolute_shares + balance.absolute_handed
        unnamed += abs(balance.history - balance.handed) + abs(balance.decay)
    return named / (named + unnamed) if named + unnamed > 0 else 1.0


def unexplained_of_probes(account: StepAccount, reading: str, places: Sequence[int] | None = None) -> float:
    """Σ_j |e_j| / Σ_j |Δ_j| of one of `READINGS` over the measured probes j (those at `places` alone), Δ_j the probe's
    measured shift and e_j what rows, history and decay leave of it: ≥ 0; 0 where nothing moved, inf where only the
    unexplained did."""
    measured, history, decay = (
        torch.tensor(account.probes[f"{reading}.{part}"], dtype=torch.float64)
        for part in ("measured", "history", "decay")
    )
    rest = measured - history - decay
    for row in account.rows:
        rest = rest - torch.tensor(row.probe_share[reading], dtype=torch.float64)
    here = slice(None) if places is None else list(places)
    return _ratio(float(rest[here].abs().sum()), float(measured[here].abs().sum()))


def _ratio(rest: float, whole: float) -> float:
    if whole > 0:
        return rest / whole
    return 0.0 if rest == 0 else float("inf")
