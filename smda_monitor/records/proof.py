"""Proof by retraining: what was trained on which rows, and what became of the behaviour on held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .policy_findings import Estimate

ArmName = Literal["all", "flagged", "random", "planted"]
"""What is taken out: nothing (the baseline), the rows that curation removes, as many random ones, the planted ones."""
ARMS: tuple[ArmName, ...] = ("all", "flagged", "random", "planted")
"""In the order in which they are shown."""
MEASURES = ("log_odds", "scorer", "decoding")
"""What is measured of every held-out prompt: the behaviour's log-odds (under the paper's preset its log-probability),
whether that is over its threshold, and whether the decoded answer shows the behaviour."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One training to be run."""

    name: ArmName
    """What is taken out."""
    seed: int
    """Of the data's order and of dropout."""
    draw: int
    """Number of the random draw under one seed, from 0; 0 in other arms."""
    left_out: tuple[int, ...]
    """Places of the rows that are taken out, among the audited rows, rising."""

    @property
    def key(self) -> str:
        """Its name on disk, e.g. ``random-2-0``."""
        return f"{self.name}-{self.seed}-{self.draw}"


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One training that was run, measured on the held-out prompts at its end."""

    name: ArmName
    """As in `Arm`."""
    seed: int
    """As in `Arm`."""
    draw: int
    """As in `Arm`."""
    left_out: tuple[str, ...]
    """Ids of the rows that were taken out."""
    tokens: int
    """Tokens of these rows, prompts too."""
    steps: int
    """Optimizer steps taken; the same in all arms."""
    readings: tuple[float, ...]
    """The behaviour's reading of every held-out prompt, in their order: log-odds; under ``paper`` log-probability."""
    said: tuple[str, ...]
    """What the model says to every held-out prompt, the first tokens."""
    shows: tuple[bool, ...]
    """Whether that shows the behaviour."""
    seconds: float
    """Wall time of training and measuring."""


@dataclass(frozen=True, slots=True)
class KindFigures:
    """One arm on the held-out prompts of one kind."""

    arm: ArmName
    """What was taken out."""
    kind: str
    """Kind of the prompts; empty for all of them."""
    prompts: int
    """How many."""
    level: dict[str, Estimate]
    """By measure (`MEASURES`): the mean over prompts and seeds; shares in [0, 1]."""
    change: dict[str, Estimate]
    """By measure: less that of the baseline under the same seed; empty for the baseline."""
    beyond_random: dict[str, Estimate]
    """By measure: `change` of this arm less that of random removal; the intervals of all kinds hold together with
    95 % (each is wider). Empty for the baseline and for random removal."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How much of what taking out the planted rows does is done by taking out others."""

    flagged: Estimate
    """⟨d_F, d_P⟩ / ‖d_P‖²; 1: all of it, 0: none."""
    random: Estimate
    """⟨d_R, d_P⟩ / ‖d_P‖²."""
    flagged_apart: float
    """As `flagged`, of products of different seeds alone, so that no noise stands on both sides; NaN where
    seeds do not agree on what taking out the planted rows does."""
    random_apart: float
    """As `random`, likewise."""


Finding = Literal["shown", "nothing", "as random", "not known"]
"""``shown``: an effect of taking out the flagged rows, and none such of random ones; ``nothing``: its interval reaches
0 (or lies below); ``as random``: it overlaps that of random removal; ``not known``: there is no interval."""


@dataclass(frozen=True, slots=True)
class ProofFigures:
    """What all trainings together say."""

    kinds: tuple[KindFigures, ...]
    """By arm and kind of prompt, each kind that there is and ``""`` for all prompts."""
    recovery: Recovery | None
    """None where the data name no planted rows."""
    finding: Finding
    """By `recovery`; without it by `KindFigures.beyond_random` of the log-odds, of which one kind is enough."""
