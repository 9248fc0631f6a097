"""Which rows to take out, by their score against the rows' own bulk, or by the paper's medians.

Score rule. A row whose prompt clearly calls for something (expected e near ±1) and that goes along with it has a score
far below 0, one whose prompt calls for nothing a score near 0: a row is held against what is usual at its e,

    excess s = score − β·e²,    β the least-absolute-deviations slope: Σ_i |score_i − β·e_i²| is least

An excess has no known null distribution; the rows that are as intended show it, if they are most of them:

    centre = median of the excesses                        spread = 1.4826 · median of (centre − s) over s ≤ centre
    z = (s − centre) / spread                              p = P(T_ν > z),  ν = 0.37 · (number of s ≤ centre)
    flagged at rate q: Benjamini and Hochberg's procedure on p (JRSS B 57, 1995)

T is Student's: ν are the degrees of freedom that a spread from median deviations is worth. The spread comes from the
lower half alone, which suspicious rows, being high, do not widen; they raise the centre, which flags fewer rows. What
is assumed: above the centre the bulk falls off no more slowly than a normal distribution with the spread of its lower
half. Where it has a heavier upper tail more of it is flagged than `rate` says; `mirrored_rate` is a second look.

Median rule (arXiv 2606.29171): a harmful row with S below the harmless rows' median, or a harmless one with S above the
harmful rows' median, is misaligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ..errors import ConfigError, describe
from ..records.curation import Bucket, CurationRule, MedianCut, RowFigures, ScoreCut
from .score import against

LOOSER = 2.0
"""``review`` is at so many times the rate of ``remove``, and always below 1, where everything would be flagged."""
NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
WORTH = 0.37
"""Degrees of freedom of a spread by median deviations, per value: 1 / (2 · 1.361), by the variance of its logarithm."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """Where most of the values lie."""

    centre: float
    """Their median; NaN without a value."""
    spread: float
    """Standard deviation as the lower half has it; ≥ 0, NaN without a value."""
    freedom: float
    """ν, degrees of freedom of `spread`; > 0."""


@dataclass(frozen=True, slots=True)
class Division:
    """The n rows of an audit, divided."""

    buckets: tuple[Bucket, ...]
    """Where each row goes."""
    excess: tuple[float, ...]
    """Of each row's score over what is usual (`over_usual`); NaN without a score."""
    ranks: tuple[int, ...]
    """Of the excess (`ranks`)."""
    scored: int
    """Rows that have a rank."""
    cut: ScoreCut | MedianCut
    """Where the lines were drawn."""


def divide(rows: Sequence[RowFigures], rule: CurationRule, rate: float) -> Division:
    """Where `rows` go by `rule`; `rate` is the score rule's false-discovery rate, of which the median rule knows
    nothing. Raises `ConfigError` as `curate_by_score`."""

    def column(name: str) -> Float64[Tensor, " n"]:
        return torch.tensor([getattr(row, name) for row in rows], dtype=torch.float64)

    expected = column("expected")
    excess, _ = over_usual(column("score"), expected)
    cut: ScoreCut | MedianCut
    if rule == "median":
        remove, review, cut = curate_by_median(column("S"), expected)
    else:
        wrong_way = opposed(expected, column("own_push"), column("answer_reading"))
        remove, review, cut = curate_by_score(
            excess, wrong_way, column("interference"), misled(column("S"), expected), rate
        )
    buckets: list[Bucket] = [
        "remove" if out else "review" if asked else "keep"
        for out, asked in zip(remove.tolist(), review.tolist(), strict=True)
    ]
    scored = int((~excess.isnan()).sum())
    return Division(tuple(buckets), tuple(excess.tolist()), tuple(ranks(excess)), scored, cut)


def over_usual(scores: Float64[Tensor, " n"], expected: Float64[Tensor, " n"]) -> tuple[Float64[Tensor, " n"], float]:
    """(excess of every score over what is usual at its `expected`, the slope β). The slope is the median of the ratios
    score / e², each weighted by e². NaN where a row has no score; 0 slope where nothing is expected of any row."""
    square = expected.square()
    known = ~scores.isnan() & (square > 0)
    ratios, order = (scores[known] / square[known]).sort()
    weights = square[known][order].cumsum(0)
    slope = float(ratios[torch.searchsorted(weights, weights[-1] / 2)]) if bool(known.any()) else 0.0
    return scores - slope * square, slope


def bulk(values: Float64[Tensor, " n"]) -> Bulk:
    """The bulk of those of `values` that are not NaN."""
    known = values[~values.isnan()]
    if not known.numel():
        return Bulk(float("nan"), float("nan"), 1.0)
    centre = known.quantile(0.5)
    below = centre - known[known <= centre]
    return Bulk(float(centre), NORMAL * float(below.quantile(0.5)), max(1.0, WORTH * below.numel()))


def flag_rates(values: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """The smallest false-discovery rate at which each of `values` is flagged as higher than their bulk, in [0, 1]; NaN
    for NaN. 1 throughout where the bulk does not vary: then nothing says what stands out."""
    from scipy.stats import false_discovery_control
    from scipy.stats import t as student

    found, by, known = torch.full_like(values, float("nan")), bulk(values), ~values.isnan()
    if not known.any():
        return found
    found[known] = 1.0
    if by.spread > 0:
        z = (values[known] - by.centre) / by.spread
        p = student.sf(z.numpy(), by.freedom)
        found[known] = torch.from_numpy(false_discovery_control(p, method="bh"))
    return found


def mirrored_rate(scores: Float64[Tensor, " n"], centre: float, threshold: float) -> float:
    """(1 + #{s ≤ 2·centre − threshold}) / #{s ≥ threshold}: of the rows from `threshold` on, the part that are as
    intended if these are symmetric about `centre` (Barber and Candès, Ann. Statist. 43, 2015). NaN where there is
    none."""
    flagged = int((scores >= threshold).sum())
    return (1 + int((scores <= 2 * centre - threshold).sum())) / flagged if flagged else float("nan")


def opposed(
    expected: Float64[Tensor, " n"], push: Float64[Tensor, " n"], reading: Float64[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Whether a row's push on its own prompt, or what its answer shows, has the sign that the prompt does not call for.
    A figure that is NaN opposes nothing."""
    return against(push, expected) | against(reading, expected)


def misled(S: Float64[Tensor, " n"], expected: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """−e·S: how far a row shifts the policy against what its prompt calls for. NaN where that is not known."""
    return -expected * S


def curate_by_score(
    excess: Float64[Tensor, " n"],
    wrong_way: Bool[Tensor, " n"],
    interference: Float64[Tensor, " n"],
    shift: Float64[Tensor, " n"],
    rate: float,
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"], ScoreCut]:
    """(remove, review, cut) by the `excess` of rows (`over_usual`). Remove: flagged at `rate`, `wrong_way` (`opposed`).
    Review: of the others those flagged at twice the rate, or at the rate by their `interference` or by their `shift` of
    the policy (`misled`), and those without a score.

    Raises `ConfigError` for a `rate` outside (0, 1).
    """
    if not 0 < rate < 1:
        raise ConfigError(describe("false-discovery rate", rate, "a number in (0, 1)", "use 0.1"))
    looser = min(LOOSER * rate, (1 + rate) / 2)
    rates, by = flag_rates(excess), bulk(excess)
    remove = (rates <= rate) & wrong_way
    beside = (flag_rates(interference) <= rate) | (flag_rates(shift) <= rate)
    review = ~remove & ((rates <= looser) | beside | excess.isnan())
    threshold = _lowest(excess, rates <= rate)
    mirrored = mirrored_rate(excess, by.centre, threshold)
    cut = ScoreCut(rate, by.centre, by.spread, threshold, looser, _lowest(excess, rates <= looser), mirrored)
    return remove, review, cut


def curate_by_median(
    S: Float64[Tensor, " n"], expected: Float64[Tensor, " n"]
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"], MedianCut]:
    """(remove, review, cut) by the paper's rule; a row is harmful where its prompt calls for the behaviour
    (`expected` > 0). Remove: misaligned. Review: rows of which it is not known what they call for."""
    harmful, harmless = expected > 0, expected <= 0
    cut = MedianCut(_median(S[harmful]), _median(S[harmless]))
    below, above = S.lt(cut.harmless), S.gt(cut.harmful)
    return (harmful & below) | (harmless & above), expected.isnan(), cut


def ranks(values: Float64[Tensor, " n"]) -> list[int]:
    """1 for the highest; equal ones share the better rank; 0 for NaN."""
    known = values[~values.isnan()].sort().values
    above = known.numel() - torch.searchsorted(known, values, right=True)
    return [0 if missing else 1 + rank for missing, rank in zip(values.isnan().tolist(), above.tolist(), strict=True)]


def _lowest(scores: Tensor, flagged: Tensor) -> float:
    return float(scores[flagged].min()) if bool(flagged.any()) else float("inf")


def _median(values: Tensor) -> float:
    return float(values.quantile(0.5)) if values.numel() else float("nan")
