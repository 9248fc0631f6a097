"""When the whole probe set is looked at for a drift of the behaviour, and what the looks find.

The probes of the step plan say when: where the witnesses, if they have drifted alike, would decide it, and as many
accounts after the last look as there were looks. They also say how boldly to bet. All other probes are the witnesses,
which `maths.drift` judges; what they said at earlier looks has no part in when the next one is. Where the plan holds
the whole set, or changes, all probes are witnesses, and every account counts as a look.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import describe
from ..instruments.assemble import Instruments
from ..maths.alerts import drift_subject
from ..maths.drift import (
    Drift,
    bounds,
    expected_log_e,
    fewest,
    leading,
    likely_rate,
    log_e_value,
    log_evidence,
    singly_judged,
    spread_within,
)
from ..maths.intent import FEATURES, Direction, categories, intents
from ..maths.interference import intended_features
from ..records.account import StepAccount
from ..records.probes import KINDS
from ..records.snapshot import Snapshot

logger = logging.getLogger("smda_monitor")


class DriftWatch:
    """Of one run whose whole set was first measured in `first`. The plan of `instruments` is that of the first account;
    whether it `changes` later."""

    def __init__(self, instruments: Instruments, first: Snapshot, changes: bool) -> None:
        config, probes = instruments.bench.config, instruments.bench.probes
        self._first, self._name = first, config.behaviour.name
        self._tolerance = config.alerts.tolerance
        self._screened = list(instruments.plan.probe_ids)
        screened = set(self._screened)
        self._apart = not changes and len(screened) < len(probes)
        self._policy, x = instruments.policy, first.X.abs().mean(0)
        coef, ids = self._policy.coef, self._policy.feature_ids
        self.intent = intents(config.alerts.intent, config.behaviour.wanted_on, probes, ids)
        """What is meant of each kind, and of what is declared beside them."""
        declared = {ids.index(k): meant for k, meant in config.alerts.intent.single_features.items()}
        self._columns = {f"{FEATURES}.{ids[k]}": k for k in (*declared, *singly_judged(coef, x))}
        self._meant = intended_features(x, coef)  # whatever else, the policy may read more or less through these
        self._meant[[k for k, meant in declared.items() if meant != "still"]] = True
        parts = [*KINDS, *categories(probes)]
        about = {of: [p.id for p in probes if of in (p.kind, f"{p.kind}.{p.category}")] for of in parts}
        self._about = about | {of: list(probes.ids) for of in (FEATURES, *self._columns)}
        self._witnesses = {
            of: [i for i in ids if not (self._apart and i in screened)] for of, ids in self._about.items()
        }
        rate = config.alerts.false_alarm
        counts = {of: len(ids) for of, ids in self._witnesses.items()}
        self._rate, self._bounds = rate, {} if rate is None else bounds(self.intent, counts, rate)
        self._directions = list(self._bounds)
        self._log_e: dict[Direction, list[float]] = {direction: [] for direction in self._directions}
        self._chances: list[int] = []
        self._since: dict[Direction, int] = {}
        self._moved: dict[str, float] = {}
        self._accounts = self._looked_at = 0

    def warn(self) -> None:
        """Says which kinds have too few witnesses for any alert."""
        least = {direction.of: fewest(bound) for direction, bound in self._bounds.items()}
        few = {of: count for of, count in least.items() if len(self._witnesses[of]) < count}
        if few:
            found = ", ".join(f"{len(self._witnesses[of])} for {of}" for of in few)
            expected = f"at least {max(few.values())} for drift alerts at alerts.false_alarm {self._rate:g}"
            remedy = "add probes of that kind, lower probes.per_step, raise alerts.false_alarm, or go on without."
            logger.warning(describe("probes outside the step plan", found, expected, remedy))

    def resume(self, accounts: Sequence[StepAccount], start: Mapping[str, float], looks: Sequence[Snapshot]) -> None:
        """Takes up what an earlier part of the run found: its `looks` after the first."""
        waiting = iter(looks)
        next(waiting, None)
        look = next(waiting, None)
        for account in accounts:
            self.note(account, start)
            while look is not None and look.step <= account.step:
                self.look(look)
                look = next(waiting, None)

    def note(self, account: StepAccount, start: Mapping[str, float]) -> None:
        """Takes in another `account`. `start`: the plan's means by reading and kind at the first snapshot."""
        self._accounts += 1
        for balance in account.balances:
            self._moved[balance.target] = self._moved.get(balance.target, 0.0) + balance.measured
        for direction in self._directions:
            name = f"mass.{direction.of}"
            if self._is_of_features(direction.of):
                drift = float(self._through(direction.of, torch.tensor([account.drift])))
            elif name in account.refusal:
                drift = account.refusal[name] - start.get(name, 0.0)
            else:  # an account has no mean of a category, only how far it moved
                drift = self._moved.get(name, 0.0)
            if direction.sign * drift > self._tolerance:
                self._since.setdefault(direction, account.step)
            else:
                self._since.pop(direction, None)

    def due(self, now: Snapshot, known: Collection[str]) -> bool:
        """Whether to look at the whole set, by the plan's probes `now`; directions whose subject is `known` call for no
        look."""
        if not self._directions or self._accounts - self._looked_at < len(self._chances):
            return False
        for direction, drift, scatter in self._of_others(now):
            if drift_subject(self._name, direction.of) in known:
                continue
            count = len(self._witnesses[direction.of])
            expected = expected_log_e(drift, scatter, count, direction.sign, self._tolerance)
            if log_evidence([expected], [self._next_chance]) >= self._bounds[direction]:
                return True
        return False

    def look(self, whole: Snapshot) -> None:
        """Takes in a snapshot of the whole set."""
        others = self._of_others(whole.part(self._screened)) if self._apart else ()
        rates = {of: likely_rate(drift, scatter, of.sign, self._tolerance) for of, drift, scatter in others}
        for direction in self._directions:
            drift = self._drift(direction.of, whole, self._witnesses[direction.of])
            self._log_e[direction].append(log_e_value(drift, direction.sign, self._tolerance, rates.get(direction)))
        self._chances.append(self._next_chance)
        self._looked_at = self._accounts

    def found(self, whole: Snapshot, known: Collection[str]) -> list[tuple[Drift, int]]:
        """What the looks bear out, the last of them at `whole`, of subjects not `known`; each with the step since which
        all accounts have it so."""
        found = []
        for direction in self._directions:
            evidence = log_evidence(self._log_e[direction], self._chances)
            if evidence >= self._bounds[direction] and drift_subject(self._name, direction.of) not in known:
                mean = float(self._drift(direction.of, whole, self._about[direction.of]).mean())
                leading = self._leading(whole, direction) if self._is_of_features(direction.of) else ()
                drift = Drift(direction, mean, self._tolerance, evidence, leading)
                found.append((drift, self._since.get(direction, whole.step)))
        return found

    def _of_others(self, plan: Snapshot) -> Iterator[tuple[Direction, Tensor, float]]:
        """Of every direction that probes of a `plan` are about: their drift, and how far such probes scatter."""
        by_kind = [self._drift(kind, plan, ids) for kind in KINDS if (ids := self._among(plan, kind))]
        spread = spread_within(by_kind)
        for direction in self._directions:
            if ids := self._among(plan, direction.of):
                drift = self._drift(direction.of, plan, ids)
                yield direction, drift, spread_within([drift]) if self._is_of_features(direction.of) else spread

    def _among(self, measured: Snapshot, of: str) -> list[str]:
        about = set(self._about[of])
        return [probe_id for probe_id in measured.probe_ids if probe_id in about]

    @property
    def _next_chance(self) -> int:
        return len(self._chances) + 1 if self._apart else max(self._accounts, 1)

    def _drift(self, of: str, measured: Snapshot, ids: Sequence[str]) -> Tensor:
        """(n,) of the n probes `ids`."""
        before, after = self._first.part(ids), measured.part(ids)
        return self._through(of, after.X - before.X) if self._is_of_features(of) else after.mass - before.mass

    def _is_of_features(self, of: str) -> bool:
        return of == FEATURES or of in self._columns

    def _through(self, of: str, delta_X: Tensor) -> Tensor:
        """(n,) of `delta_X` (n, d), through unintended features together or a single one."""
        drift = delta_X.double() * self._policy.coef
        return drift[:, ~self._meant].sum(1) if of == FEATURES else drift[:, self._columns[of]]

    def _leading(self, whole: Snapshot, direction: Direction) -> tuple[tuple[int, float], ...]:
        drift = (whole.X - self._first.X).double().mean(0) * self._policy.coef
        together = drift.masked_fill(self._meant, 0.0)
        columns = leading(together, direction.sign) if direction.of == FEATURES else [self._columns[direction.of]]
        return tuple((self._policy.feature_ids[k], float(drift[k])) for k in columns)
