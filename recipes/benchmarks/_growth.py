"""How the monitor's cost grows: measured at some sizes of one factor, fitted as cost = a·sizeᵇ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from _bed import Bed
from _conditions import Condition, Load, timed_run
from _settings import Settings


@dataclass(frozen=True, slots=True)
class Growth:
    """One factor."""

    sizes: tuple[int, ...]
    """Where it was measured."""
    costs: tuple[float, ...]
    """What was measured there: seconds per step, or bytes."""
    unit: str
    """Of the costs."""

    @property
    def exponent(self) -> float:
        """b of cost = a·sizeᵇ by least squares in log-log: 1 is proportional, 0 does not grow."""
        slope, _ = np.polyfit(np.log(self.sizes), np.log(self.costs), 1)
        return float(slope)


def seconds_growth(
    bed: Bed, model: Any, load: Load, sizes: Mapping[str, Sequence[int]], rounds: int
) -> dict[str, Growth]:
    """Growth of the monitor's seconds per step with ``probes``, ``rows`` of a step and watched ``features``, whose ΔW
    is split among the rows at every account.

    What is not varied stays at its smallest size, so that it hides least; sizes take turns, `rounds` times, so that a
    machine that slows down does not look like growth.
    """
    found = {}
    smallest = Settings(per_step=min(sizes["probes"]))
    for factor, values in sizes.items():
        costs = {size: list[float]() for size in values}
        for turn in range(rounds):
            for size in values:
                settings = replace(
                    smallest,
                    per_step=size if factor == "probes" else smallest.per_step,
                    watched=size if factor == "features" else smallest.watched,
                    watched_every=int(factor == "features"),
                )
                here = replace(load, batch=size if factor == "rows" else min(sizes["rows"]))
                name = f"growth-{factor}-{size}-{turn}"
                costs[size] += timed_run(bed, model, Condition("monitor", settings), here, name).monitor
        found[factor] = Growth(tuple(values), tuple(median(costs[size]) for size in values), "s")
    return found
