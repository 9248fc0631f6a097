"""Rows of an audit compared by group: what harmful and harmless rows do to each watched feature, and which kinds of
rows act on features that their prompts did not call for.

Harmful against harmless, for every feature k and pathway P ∈ {X, Y}, on the figures a_i = ΔW_P,k w_k of the rows:

    U = #{(i, j): a_i > a_j} + ½ #{(i, j): a_i = a_j}        i a harmful row, j a harmless one
    AUROC = U / (n_harmful n_harmless)                       rank-biserial correlation = 2·AUROC − 1

with the two-sided p-value of Mann and Whitney (scipy), and Benjamini and Hochberg's correction over the features; each
pathway is a family of its own. Rows of one data set are judged from one state, so they are exchangeable under the null.
What a significant feature says is that the two groups act on it differently, not that either acts strongly.

Interference by kind, with I_i the features that row i's own prompt calls for (`interference`):

    M_kc = mean over rows i of kind c of  1[k ∉ I_i] |ΔW_ik w_k| / Σ_l |ΔW_il w_l|          ΔW = ΔW_X + ΔW_Y

over the watched features k, l. A column sums to the mean interference of its kind's rows; a row in which nothing moved
adds 0. The paper (arXiv 2606.29171) describes cross-feature interference in words; the matrix is our own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ..records.config import WantedOn
from ..records.row_kinds import Distribution, FeatureContrast, KindInterference, Pathway

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of each group's figures."""
NAMED_KINDS = 24
"""Kinds that the matrix tells apart, those with most rows; the others are one kind."""
OTHER = "(other kinds)"
"""What the rarer kinds are called together."""


def reads_harmful(expected: Float64[Tensor, " n"], wanted_on: WantedOn = "harmful") -> Bool[Tensor, " n"]:
    """Whether n prompts read as harmful, by what is `expected` on them (`score`).

    Of a behaviour that is `wanted_on` harmful prompts that lies in (−1, 1), and above 0 it is to be shown: harmful. Of
    one that is wanted on harmless ones it lies in (−1, 0), and below −½ it is rather not to be shown: harmful.
    """
    return expected > 0 if wanted_on == "harmful" else expected < -0.5


def feature_contrasts(
    features: Sequence[int],
    coef: Float64[Tensor, " K"],
    shift_X: Float64[Tensor, "n K"],
    shift_Y: Float64[Tensor, "n K"],
    harmful: Bool[Tensor, " n"],
) -> tuple[FeatureContrast, ...]:
    """Both pathways of every one of K `features` with coefficients `coef`: rows that are `harmful` against the others.
    `shift_X` and `shift_Y` are the n rows' ΔW_X and ΔW_Y, finite, units of w."""
    found: dict[Pathway, list[FeatureContrast]] = {}
    shifts: dict[Pathway, Tensor] = {"X": shift_X * coef, "Y": shift_Y * coef}
    for pathway, figures in shifts.items():
        tests = [_mann_whitney(figures[harmful, k], figures[~harmful, k]) for k in range(len(features))]
        adjusted = _adjusted([p for _, _, p in tests])
        found[pathway] = [
            FeatureContrast(
                features[k],
                float(coef[k]),
                pathway,
                distribution(figures[harmful, k]),
                distribution(figures[~harmful, k]),
                *tests[k],
                adjusted[k],
            )
            for k in range(len(features))
        ]
    return tuple(one for pair in zip(found["X"], found["Y"], strict=True) for one in pair)


def distribution(figures: Float64[Tensor, " n"]) -> Distribution:
    """The quantiles of `figures`."""
    if not figures.numel():
        return Distribution(0, *[math.nan] * len(QUANTILES))
    return Distribution(len(figures), *torch.quantile(figures, torch.tensor(QUANTILES, dtype=torch.float64)).tolist())


def kind_interference(
    coef: Float64[Tensor, " K"],
    shift_X: Float64[Tensor, "n K"],
    shift_Y: Float64[Tensor, "n K"],
    intended: Bool[Tensor, "n K"],
    unintended: Bool[Tensor, " n"],
    kinds: Sequence[str],
) -> tuple[KindInterference, ...]:
    """One entry for each of the n rows' `kinds`, those with most rows first. `shift_X` and `shift_Y` are the rows'
    ΔW_X and ΔW_Y of the K watched features, finite; `intended` tells which of them lie in a row's I, `unintended`
    whether its dominant one does not."""
    parts = ((shift_X + shift_Y) * coef).abs()
    total = parts.sum(1, keepdim=True)
    share = torch.where(total > 0, parts / total, 0.0)
    outside = torch.where(intended, 0.0, share)
    named, found = _few(kinds), []
    for kind, rows in Counter(named).most_common():
        own = torch.tensor([name == kind for name in named])
        by_feature, astray = outside[own].mean(0), float(unintended[own].double().mean())
        found.append(KindInterference(kind, rows, astray, float(by_feature.sum()), tuple(by_feature.tolist())))
    return tuple(found)


def _few(kinds: Sequence[str]) -> list[str]:
    common = {kind for kind, _ in Counter(kinds).most_common(NAMED_KINDS)}
    return [kind if kind in common else OTHER for kind in kinds]


def _mann_whitney(harmful: Tensor, harmless: Tensor) -> tuple[float, float, float]:
    """(U, AUROC, p)"""
    from scipy.stats import mannwhitneyu

    pairs = harmful.numel() * harmless.numel()
    if pairs == 0:
        return math.nan, math.nan, math.nan
    if bool((torch.cat([harmful, harmless]) == harmful[0]).all()):
        return pairs / 2, 0.5, 1.0  # nothing to rank: scipy would divide by a spread of 0
    test = mannwhitneyu(harmful.numpy(), harmless.numpy(), alternative="two-sided")
    return float(test.statistic), float(test.statistic) / pairs, float(test.pvalue)


def _adjusted(p: Sequence[float]) -> list[float]:
    from scipy.stats import false_discovery_control

    if not p or math.isnan(p[0]):
        return list(p)
    adjusted: list[float] = false_discovery_control(p).tolist()
    return adjusted
