"""A symbolic policy laid open: its coefficients, its fidelity beside baselines, and its gaps by category of probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over prompts."""

    value: float
    """The figure itself, on all prompts; NaN without any."""
    low: float
    """2.5 % quantile over the resamples; NaN with fewer than two prompts, or where some resample has no figure."""
    high: float
    """97.5 % quantile; NaN as `low`."""

    def apart(self, other: Estimate) -> bool:
        """Whether the two intervals have no point in common; False where one of them is not known."""
        return self.low > other.high or self.high < other.low


@dataclass(frozen=True, slots=True)
class RankedCoefficient:
    """One coefficient of the policy."""

    feature: int
    """The dictionary's feature."""
    coef: float
    """w_k, units of y per unit of the feature."""
    low: float
    """2.5 % bootstrap quantile over resampled fit prompts; NaN where none was taken."""
    high: float
    """97.5 % quantile; NaN as `low`."""
    spread: float
    """Standard deviation of X_k over the fit set, activation units; ≥ 0."""
    effect: float
    """|w_k|·std(X_k): how far predictions vary by this feature; units of y, ≥ 0."""


@dataclass(frozen=True, slots=True)
class VariantFidelity:
    """How well one Ridge fit predicts prompts that it was not fitted on."""

    intercept: bool
    """Whether the fit has an intercept."""
    is_policy: bool
    """True for the policy itself, False for the other variant: the same X, y and alpha."""
    r2: Estimate
    """R² of the predicted y; 1 is perfect."""
    accuracy: Estimate
    """Fraction of prompts on which prediction and measured y are on the same side of the threshold, in [0, 1]."""
    over_majority: Estimate
    """Accuracy less that of the majority baseline, on the same resamples; an interval above 0 beats it."""


@dataclass(frozen=True, slots=True)
class HeldoutFidelity:
    """Both variants beside what needs no features at all."""

    prompts: int
    """Held-out prompts."""
    threshold: float
    """From here on y counts as the behaviour; units of y (`maths.threshold`)."""
    r2_constant: Estimate
    """R² of predicting the fit set's mean everywhere; 0 or less."""
    majority: Estimate
    """Accuracy of always naming the side that more of these prompts are on, in [0, 1]; the side is fixed."""
    variants: tuple[VariantFidelity, ...]
    """The policy first."""


@dataclass(frozen=True, slots=True)
class Level:
    """Mean behaviour over a group of prompts, or the difference of two groups; all NaN for a group without prompts."""

    measured: Estimate
    """As probability, in [0, 1]; differences in [−1, 1]."""
    predicted: Estimate
    """The policy's prediction as probability."""
    measured_y: Estimate
    """In units of y: log-odds, or log-probability under the paper preset."""
    predicted_y: Estimate
    """The policy's prediction in units of y."""

    def judged(self, reading: str) -> tuple[Estimate, Estimate]:
        """(measured, predicted) as flags are raised on them: as probability where y is log-odds (`reading` ``mass``),
        in units of y where it is log-probability."""
        return (self.measured, self.predicted) if reading == "mass" else (self.measured_y, self.predicted_y)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one feature adds to the difference between predicted harmful and look-alike prompts."""

    feature: int
    """The dictionary's feature."""
    difference: float
    """Mean activation on the harmful prompts less that on the look-alikes."""
    coef: float
    """w_k."""
    contribution: float
    """difference·w_k, units of y; over all features they add up to the difference of the mean predictions."""


@dataclass(frozen=True, slots=True)
class CategoryGap:
    """One category of probes: its harmful prompts against their look-alikes."""

    category: str
    """The probes' category."""
    n_harmful: int
    """Harmful prompts."""
    n_lookalike: int
    """Look-alikes."""
    harmful: Level
    """Over the harmful prompts."""
    lookalike: Level
    """Over the look-alikes."""
    difference: Level
    """Harmful less look-alike."""
    features: tuple[Contribution, ...]
    """The leading contributions, largest |contribution| first; empty where one of the groups is."""
    flags: tuple[str, ...]
    """In words (`maths.gaps`); empty where nothing is the matter."""


@dataclass(frozen=True, slots=True)
class PolicyFindings:
    """All that `smda policy` finds."""

    facts: Mapping[str, str]
    """Name of a part and what it resolved to."""
    behaviour: str
    """The behaviour's name."""
    reading: str
    """What y is: ``mass`` (log-odds) or ``log_probability``."""
    limit: float
    """On this side or that of it the flags are raised: one half, or the threshold under log-probability."""
    fidelity: HeldoutFidelity
    """On held-out prompts."""
    coefficients: tuple[RankedCoefficient, ...]
    """All of them, largest effect first."""
    gaps: tuple[CategoryGap, ...]
    """One for each category with harmful prompts or look-alikes, in the order of the probe set."""
    cards: tuple[dict[str, Any], ...]
    """Cards (feature, coefficient, density, top_probes, top_tokens) of the leading features and those named in gaps."""
