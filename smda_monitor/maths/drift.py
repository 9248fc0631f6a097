"""Evidence that a behaviour has drifted on prompts of a kind, or its policy through features that it does not rest on,
which stays valid however often one looks.

Population: all prompts of the kind. Its m witnesses are independent draws from it; the drift of witness j since the
start, d_j = y_j(t) − y_j(0), is measured without noise. What is random is which prompts were drawn: training does not
notice them, so its course is as good as fixed. Null, for a direction s = ±1 and a tolerance τ: at every step the drift
s·d over prompts of the kind is symmetric around its mean, and that mean is at most τ. For features, over prompts of all
kinds, d_j = Σ_{k∉I} w_k ΔX_jk; I are those that the policy rests on at the start (`interference`). So that some do not
hide behind others, `SINGLY` of them are judged each by itself too, d_j = w_k ΔX_jk. With x_j = s·d_j − τ

    E = ½ mean_λ Π_j (1 + tanh(λ x_j)) + ½ Π_j (1 + tanh(λ' x_j))        E[E] ≤ 1: tanh is odd and increasing
    evidence after n looks = Σ_{k ≤ n} E_k / (k (k + 1))

1/(k (k + 1)) sums to 1 and the evidence never falls, so under the null it ever reaches H/α with chance ≤ α/H (Markov),
whatever looks have in common, and with H directions judged the chance of any alert in a whole run is ≤ α. Where
categories of a kind and single features are judged too, they share one half of α, kinds and features together the
other (`bounds`). When to look, up to a first alert, and λ' (`likely_rate`) may depend on anything but the witnesses: on
the course of training and on other prompts; without these E is the mean over λ alone. Where looks depend on the
witnesses, k is to count all moments at which one might have looked. A factor 1 + tanh is at most 2: few witnesses can
never be enough (`fewest`). Where it breaks: prompts so rare that a draw of m may miss them all drift far the other way,
and alone hold the mean within the tolerance. Then the typical prompt has drifted, and the alarm is false of the mean
alone.

Libraries with such tests (`expectation`, `confseq`) ask for Python 3.12 or for a C++ build, so this is our own.
Sources: bets against symmetry, de la Peña 1999 (Ann. Probab. 27) and Ramdas et al. 2020 (arXiv 2009.03167); mixing
e-values under any dependence, Vovk & Wang 2021 (Ann. Statist. 49). The weights are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..records.alerts_config import DriftIntent
from .intent import Direction, unintended
from .interference import intended_features

RATES = tuple(2.0**i for i in range(-4, 4))
"""λ, in units of 1/τ. The best is the mean of x over its mean square: prompts may scatter more than the tolerance."""

LEADING_FEATURES = 5
"""Named by an alert on features, at most."""
SINGLY = 16
"""Unintended features that are judged each by itself: those with the largest |w|."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A drift that the evidence bears out."""

    direction: Direction
    """Which."""
    mean: float
    """Mean over all probes that it is about, witnesses and others, nats."""
    tolerance: float
    """τ, nats."""
    log_evidence: float
    """Of all looks."""
    leading: tuple[tuple[int, float], ...] = ()
    """Of features: the ids that drifted most that way, and how far each alone, nats."""


def log_e_value(drift: Float64[Tensor, " m"], sign: float, tolerance: float, rate: float | None = None) -> float:
    """log E of m witnesses' `drift` (nats) in the direction `sign` beyond `tolerance` τ > 0 (nats): ≤ m log 2. `rate`:
    λ', per nat, from other prompts; None: there is none.

    Raises `ValueError` for NaN."""
    if bool(drift.isnan().any()):
        raise ValueError("a witness's drift is NaN")
    rates = torch.tensor([*(r / tolerance for r in RATES), rate or 0.0], dtype=torch.float64)[:, None]
    # 1 + tanh u = 2σ(2u), without rounding to 0.
    bets = (torch.nn.functional.logsigmoid(2 * rates * (sign * drift - tolerance)) + math.log(2)).sum(1)
    mixed = bets[:-1].logsumexp(0) - math.log(len(RATES))
    return float(mixed if rate is None else torch.logaddexp(mixed, bets[-1]) - math.log(2))


def likely_rate(drift: Float64[Tensor, " m"], spread: float, sign: float, tolerance: float) -> float | None:
    """λ' = ½·δ/(σ² + δ²), δ = mean(s·d) − τ, per nat, from m ≥ 1 other prompts, which scatter by `spread` σ (nats).
    None where δ ≤ 0.

    δ/(σ² + δ²) would be about the best for witnesses that drift as they do. Half of it loses a quarter of the growth;
    twice the best loses all, and few prompts rarely show how far others may scatter (fractional Kelly betting)."""
    beyond = sign * float(drift.mean()) - tolerance
    return beyond / (spread**2 + beyond**2) / 2 if beyond > 0 else None


def expected_log_e(drift: Float64[Tensor, " m"], spread: float, witnesses: int, sign: float, tolerance: float) -> float:
    """log E to be had from n `witnesses` that drift as m ≥ 1 other prompts do, which scatter by `spread` σ (nats):

        n·min((δ/σ)²/2, log 2) − log(number of λ),    δ = mean(s·d) − τ − σ/√m

    as of a normal distribution at the best λ, with the mean one standard error lower; −inf where δ ≤ 0."""
    beyond = sign * float(drift.mean()) - tolerance - spread / len(drift) ** 0.5
    if not beyond > 0:
        return -math.inf
    each = math.log(2) if spread == 0 else min((beyond / spread) ** 2 / 2, math.log(2))
    return witnesses * each - math.log(len(RATES))


def log_evidence(log_e: Sequence[float], chances: Sequence[int]) -> float:
    """log Σ_k E_k/(k(k + 1)) of looks with logarithms `log_e`; k = `chances`, different whole numbers ≥ 1; −inf
    without a look."""
    weighted = [e - math.log(k * (k + 1)) for e, k in zip(log_e, chances, strict=True)]
    return float(torch.tensor(weighted, dtype=torch.float64).logsumexp(0)) if weighted else -math.inf


def log_bound(false_alarm: float, directions: int) -> float:
    """log(H/α): what evidence has to reach where H ≥ 1 `directions` are judged and α is `false_alarm`."""
    return math.log(directions / false_alarm)


def fewest(bound: float) -> int:
    """The witnesses without which evidence cannot reach the logarithm `bound` at the first look."""
    return math.ceil((bound + math.log(2)) / math.log(2))


def bounds(
    intent: Mapping[str, DriftIntent], witnesses: Mapping[str, int], false_alarm: float
) -> dict[Direction, float]:
    """The directions that are judged, and the log-evidence at which each is alerted; together they are with a chance of
    at most `false_alarm`.

    `intent` is of kinds and `FEATURES`, and of their parts, ``<whole>.<part>``, that are not meant to go as the whole;
    `witnesses` how many there are of all. A part is judged where its witnesses can be enough."""
    wholes = {of: meant for of, meant in intent.items() if "." not in of}
    whole = [direction for direction in unintended(wholes) if witnesses.get(direction.of)]
    candidates = unintended({of: intent.get(of, wholes[of.split(".")[0]]) for of in witnesses if "." in of})
    half = false_alarm / 2
    parts = [d for d in candidates if witnesses[d.of] >= fewest(log_bound(half, len(candidates)))]
    left = half if parts else false_alarm
    return {d: log_bound(left, len(whole)) for d in whole} | {d: log_bound(half, len(parts)) for d in parts}


def singly_judged(coef: Float[Tensor, " d"], x: Float[Tensor, " d"]) -> list[int]:
    """The columns that are judged each by itself, at most `SINGLY`."""
    return _largest(coef.double().abs().masked_fill(intended_features(x, coef), 0.0), SINGLY)


def spread_within(groups: Sequence[Float64[Tensor, " _"]]) -> float:
    """Root mean square of the values about the mean of their own group; at least one group, none empty."""
    return float(torch.cat([group - group.mean() for group in groups]).square().mean().sqrt())


def leading(drift: Float64[Tensor, " d"], sign: float) -> list[int]:
    """The columns with the largest sign·drift, those above 0, largest first; at most `LEADING_FEATURES`."""
    return _largest(sign * drift, LEADING_FEATURES)


def _largest(values: Float64[Tensor, " d"], count: int) -> list[int]:
    most = values.topk(min(count, len(values))).indices.tolist()
    return [k for k in most if float(values[k]) > 0]
