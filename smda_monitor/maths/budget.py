"""A budget of time: the snapshot interval and the number of probes that keep the monitor within it.

With an account every J steps on m probes, the monitor adds to each step, in seconds,

    a(J, m) = (account + passes(m)·probe·m)/J + split·m + own + other

passes(m) = 1 + 1/`ROTATION` where m is less than the whole set, since another choice of probes then takes over at every
`ROTATION`-th account and is measured once more; else 1. Of the budget `overhead`·step a part goes to audits first. Then

    m = max { m : a(longest, m) ≤ (overhead − audits)·step },        fewest ≤ m ≤ most
    J = min { J : a(J, m) ≤ (overhead − audits)·step },              shortest ≤ J ≤ longest

So as long as all of `most` can be measured the interval alone gives way; where even the longest is too dear, probes do.
Where nothing is within the budget the cheapest is taken, and `Choice.kept` says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 64
"""Steps between two snapshots, at most: beyond it the trapezoid between two gradients says little."""
FEWEST = 8
"""Probes measured, at least."""
ROTATION = 8
"""Accounts after which another choice of the probe set is measured."""
AUDIT_PART = 1 / 3
"""Of the overhead asked for that audits may take, at most."""
WINDOW = 9
"""Latest figures of which a running median is taken."""
SLACK = 1.25
"""A choice that holds is kept while it is coarser than need be by this factor at most."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured, in seconds, all ≥ 0."""

    step: float
    """One step of plain training."""
    probe: float
    """One probe of a pass with gradients."""
    split: float = 0.0
    """Reading one step on one probe; under accounts by replay, its replays."""
    own: float = 0.0
    """The own prompts of one step's rows: the user's choice, hence a cost and no knob."""
    other: float = 0.0
    """Whatever else every step takes: the capture of its rows, the optimizer's state."""
    account: float = 0.0
    """Whatever else every account takes: ledger, sinks, feature shifts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Between which bounds to choose."""

    whole: int
    """Probes in the set."""
    most: int
    """Probes measured at most, ≤ `whole`."""
    fewest: int
    """Probes measured at least, ≥ 1 and ≤ `most`."""
    longest: int = LONGEST
    """Steps between two snapshots at most, ≥ `shortest`."""
    shortest: int = 1
    """Steps between two snapshots at least, ≥ 1."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How often to measure how many probes."""

    every: int
    """Steps between two snapshots."""
    probes: int
    """Probes measured at each."""
    expected: float
    """What the monitor will add to plain training time, audits included, as a fraction of it; inf where a plain step
    takes no time."""
    kept: bool
    """Whether that is within the budget."""


def fewest_probes(kinds: int, most: int) -> int:
    """At least `FEWEST` and two of each kind, so that a variance exists; never more than `most`."""
    return min(most, max(FEWEST, 2 * kinds))


def audit_part(share: float, overhead: float) -> float:
    """What audits may take, as a fraction of plain training time: `share` of the whole time ≈ share·(1 + overhead) of
    the plain, and at most a third of the overhead."""
    return min(share * (1 + overhead), AUDIT_PART * overhead)


def added_seconds(costs: Costs, every: int, probes: int, whole: int) -> float:
    """a(J, m) of the module's docstring: seconds that the monitor adds to each step, audits left out; ≥ 0."""
    passes = 1 + 1 / ROTATION if probes < whole else 1
    per_account = costs.account + passes * costs.probe * probes
    return per_account / every + costs.split * probes + costs.own + costs.other


def choose(costs: Costs, limits: Limits, overhead: float, audits: float = 0.0) -> Choice:
    """The choice of the module's docstring for a budget of `overhead` > 0, `audits` of it taken by audits; both are
    fractions of plain training time."""
    allowed = (overhead - audits) * costs.step

    def added(every: int, probes: int) -> float:
        return added_seconds(costs, every, probes, limits.whole)

    def chosen(every: int, probes: int) -> Choice:
        seconds = added(every, probes)
        expected = seconds / costs.step + audits if costs.step > 0 else float("inf")
        return Choice(every, probes, expected, seconds <= allowed)

    numbers = range(limits.most, limits.fewest - 1, -1)
    for probes in numbers:
        if added(limits.longest, probes) <= allowed:
            intervals = range(limits.shortest, limits.longest + 1)
            return chosen(next(every for every in intervals if added(every, probes) <= allowed), probes)
    return chosen(limits.longest, min(numbers, key=lambda probes: added(limits.longest, probes)))


def settle(held: tuple[int, int], wanted: Choice, longest: int) -> tuple[int, int]:
    """(every, probes) to go on with: those `held` where they cost no more than `wanted` and are hardly coarser, by a
    factor of `SLACK` at most, so that noise in the figures does not move them; else those wanted."""
    every, probes = held
    cheaper = wanted.every <= every <= longest and probes <= wanted.probes
    near = every <= SLACK * wanted.every and wanted.probes <= SLACK * probes
    return held if cheaper and near else (wanted.every, wanted.probes)


def running_median(figures: Sequence[float]) -> float:
    """Median of the last `WINDOW` figures, the run's first left out as soon as there is another (it pays for warming
    up); one slow step does not move it. NaN where there is none."""
    recent = list(figures[1:] or figures)[-WINDOW:]
    return statistics.median(recent) if recent else float("nan")
