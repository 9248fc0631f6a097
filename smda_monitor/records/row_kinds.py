"""Rows of an audit by group: those whose prompts read as harmful against the others, and by the kinds that data name.

How a prompt reads follows from what is expected on it (`RowEntry.expected`, `maths.row_kinds.reads_harmful`). No label
of the data is needed for that; its ``kind`` column only gives kinds their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pathway = Literal["X", "Y"]
"""``X``: ΔW_X,k w_k, through feature activation; ``Y``: ΔW_Y,k w_k, through output probability."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a figure is spread over a group of rows; all NaN for a group without rows."""

    rows: int
    """Rows in the group."""
    p5: float
    """5 % quantile, in the figure's units."""
    q1: float
    """First quartile."""
    median: float
    """Median."""
    q3: float
    """Third quartile."""
    p95: float
    """95 % quantile."""


@dataclass(frozen=True, slots=True)
class FeatureContrast:
    """One watched feature in one pathway: harmful rows against harmless ones."""

    feature: int
    """Feature id."""
    coefficient: float
    """w_k."""
    pathway: Pathway
    """Which part of ΔW_k; the figure compared is that part times w_k, units of w²: > 0 strengthens the feature's
    coefficient, < 0 weakens it."""
    harmful: Distribution
    """Over the rows whose prompt reads as harmful."""
    harmless: Distribution
    """Over the others."""
    U: float
    """Mann-Whitney statistic of the harmful rows: pairs (harmful, harmless) in which the harmful row's figure is
    larger, ties counted half; in [0, n_harmful·n_harmless]. NaN where a group is empty."""
    auroc: float
    """U / (n_harmful·n_harmless), in [0, 1]: the chance that a harmful row's figure is larger; 0.5 is no difference."""
    p: float
    """Two-sided p-value of U; NaN where a group is empty."""
    p_adjusted: float
    """The same after Benjamini and Hochberg, over the features of this pathway; NaN where a group is empty."""

    @property
    def rank_biserial(self) -> float:
        """2·auroc − 1, the effect size in [−1, 1]."""
        return 2 * self.auroc - 1


@dataclass(frozen=True, slots=True)
class KindInterference:
    """The rows of one kind: how much of their effect falls on features that their own prompts did not call for."""

    kind: str
    """Name of the kind."""
    rows: int
    """Rows of the kind whose own prompt was read; ≥ 1."""
    unintended: float
    """Share of them whose dominant watched feature is an unintended one (`RowAudit.dominant_unintended`), in [0, 1]."""
    interference: float
    """Mean interference over them, in [0, 1]: the sum of `by_feature`."""
    by_feature: tuple[float, ...]
    """One per watched feature: its part of the mean interference, ≥ 0."""


@dataclass(frozen=True, slots=True)
class RowKinds:
    """All that is said of an audit's rows by group."""

    named: bool
    """Whether kinds are the data's own; else they are the two groups."""
    features: tuple[int, ...]
    """The watched features, in the policy's order."""
    contrasts: tuple[FeatureContrast, ...]
    """For every feature its two pathways, X then Y."""
    kinds: tuple[KindInterference, ...]
    """Most rows first."""
