"""Runs of which the truth is known, for the drift alerts: made of real ones by resampling and flipping signs.

Of every clean run the accounts give the drift d_j(t) of each measured probe since its start, in log-odds and as the
policy reads it. With its mean over the kind taken away this is a path of scatter c_j(t). A made run draws a path and a
sign ε = ±1 for every probe of the shipped set anew, around a mean drift m(t) towards what is not intended:

    d(t) = m(t) + ε·c(t)        symmetric around m(t); null: m(t) = τ throughout, the edge of the tolerance
                                power: m(t) = size·τ·t/T, growing from nothing to `size` tolerances

What runs on it is the monitor's own `DriftWatch`, with the step plan's stratified probes as in a real run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from smda_monitor.instruments.probe_files import read_probes
from smda_monitor.maths.sampling import stratified, stratum
from smda_monitor.monitor.drift_watch import DriftWatch
from smda_monitor.outputs.ledger_reader import LedgerView
from smda_monitor.records.alerts_config import AlertsConfig
from smda_monitor.records.config import BehaviourConfig
from smda_monitor.records.probes import KINDS, ProbeSet
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

MASS, EXPLAINED = "mass", "explained"
HEALTH = DictionaryHealth(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Paths:
    """Paths of scatter over T steps from real runs, by reading: (paths, T + 1), nats, 0 at first."""

    by_reading: Mapping[str, Tensor]

    @property
    def steps(self) -> int:
        """T."""
        return self.by_reading[MASS].shape[1] - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Made runs and what they raised."""

    runs: int
    alerted: tuple[int, ...]
    """The step of the first drift alert of every run that had one."""

    def as_json(self) -> dict[str, Any]:
        """With the part of runs that alerted, its exact binomial 95 % interval and the median step."""
        from scipy.stats import binomtest

        count = len(self.alerted)
        interval = binomtest(count, self.runs).proportion_ci()
        middle = sorted(self.alerted)[count // 2] if count else None
        return {
            "runs": self.runs,
            "alerts": count,
            "rate": count / self.runs,
            "interval": [float(interval.low), float(interval.high)],
            "median_step": middle,
        }


def scatter_paths(views: Sequence[LedgerView]) -> Paths:
    """The measured probes' drift in the accounts of `views`, all of the same steps and of one every step, about the
    mean of its kind. Kinds of one measured probe alone have no scatter and are left out."""
    found: dict[str, list[Tensor]] = {MASS: [], EXPLAINED: []}
    for view in views:
        kind_of = {probe.id: probe.kind for probe in view.probes}
        ids = view.accounts[0].probe_ids
        for reading, paths in found.items():
            moved = [account.probes[f"{reading}.measured"] for account in view.accounts]
            drift = torch.tensor(moved, dtype=torch.float64).cumsum(0).T
            for kind in KINDS:
                here = drift[[i for i, probe_id in enumerate(ids) if kind_of[probe_id] == kind]]
                if len(here) > 1:
                    # The mean is of these very paths: n of them scatter by (n − 1)/n too little about it.
                    paths.append((here - here.mean(0)) * (len(here) / (len(here) - 1)) ** 0.5)
    length = min(path.shape[1] for paths in found.values() for path in paths)
    start = {
        name: [torch.nn.functional.pad(path[:, :length], (1, 0)) for path in paths] for name, paths in found.items()
    }
    return Paths({name: torch.cat(paths) for name, paths in start.items()})


def null_runs(paths: Paths, count: int, per_step: int, alerts: AlertsConfig, seed: int) -> Outcome:
    """`count` runs in which the mean of every direction (of features: up) lies at the edge of the tolerance at every
    step."""
    mean = torch.full((paths.steps + 1,), alerts.tolerance, dtype=torch.float64)
    mean[0] = 0
    return _outcome(paths, mean, count, per_step, alerts, seed)


def drifting_runs(paths: Paths, size: float, count: int, per_step: int, alerts: AlertsConfig, seed: int) -> Outcome:
    """`count` runs in which every mean grows to `size` tolerances."""
    mean = size * alerts.tolerance * torch.linspace(0, 1, paths.steps + 1, dtype=torch.float64)
    return _outcome(paths, mean, count, per_step, alerts, seed)


def _outcome(paths: Paths, mean: Tensor, count: int, per_step: int, alerts: AlertsConfig, seed: int) -> Outcome:
    probes = read_probes("shipped", "probes")
    found = [_first_alert(probes, paths, mean, per_step, alerts, random.Random(f"{seed}-{i}")) for i in range(count)]
    return Outcome(count, tuple(step for step in found if step is not None))


def _first_alert(
    probes: ProbeSet, paths: Paths, mean: Tensor, per_step: int, alerts: AlertsConfig, draw: random.Random
) -> int | None:
    """The step of the first drift alert of one made run; None without one."""
    against = torch.tensor([-1.0 if probe.kind == "harmful" else 1.0 for probe in probes], dtype=torch.float64)
    mass = against[:, None] * mean + _drawn(paths.by_reading[MASS], len(probes), draw)
    explained = mean + _drawn(paths.by_reading[EXPLAINED], len(probes), draw)
    chosen = stratified([stratum(probe) for probe in probes], per_step, draw.randrange(2**31))
    plan = [probes.ids[i] for i in sorted(chosen)]
    watch = DriftWatch(_instruments(probes, plan, alerts), _snapshot(probes, 0, mass, explained), changes=False)
    start = {f"{MASS}.{kind}": 0.0 for kind in KINDS}
    for step in range(1, mass.shape[1]):
        whole = _snapshot(probes, step, mass, explained)
        seen = whole.part(plan)
        watch.note(_account(step, seen, probes), start)
        if watch.due(seen, ()):
            watch.look(whole)
            if watch.found(whole, ()):
                return step
    return None


def _drawn(paths: Tensor, count: int, draw: random.Random) -> Tensor:
    """(count, T + 1) paths drawn with replacement, each with a sign."""
    chosen = torch.tensor([draw.randrange(len(paths)) for _ in range(count)])
    signs = torch.tensor([draw.choice((-1.0, 1.0)) for _ in range(count)], dtype=torch.float64)
    return signs[:, None] * paths[chosen]


def _instruments(probes: ProbeSet, plan: Sequence[str], alerts: AlertsConfig) -> Any:
    """What a `DriftWatch` asks of a run's instruments: its policy rests on a first feature, and reads a second."""
    return SimpleNamespace(
        bench=SimpleNamespace(config=SimpleNamespace(alerts=alerts, behaviour=BehaviourConfig()), probes=probes),
        plan=SimpleNamespace(probe_ids=tuple(plan)),
        policy=SimpleNamespace(coef=torch.tensor([99.0, 1.0], dtype=torch.float64), feature_ids=(0, 1)),
    )


def _snapshot(probes: ProbeSet, step: int, mass: Tensor, explained: Tensor) -> Snapshot:
    y, nothing = mass[:, step], torch.zeros(len(probes), 1, dtype=torch.float64)
    X = torch.stack([torch.ones_like(y), explained[:, step]], dim=1)
    return Snapshot(step, probes.ids, X, y, y, y, nothing, HEALTH)


def _account(step: int, seen: Snapshot, probes: ProbeSet) -> Any:
    """What `DriftWatch.note` asks of an account."""
    kind_of = {probe.id: probe.kind for probe in probes}
    means = {f"{MASS}.{kind}": float(seen.mass[[kind_of[i] == kind for i in seen.probe_ids]].mean()) for kind in KINDS}
    return SimpleNamespace(step=step, refusal=means, drift=(0.0, float(seen.X[:, 1].mean())), balances=())
