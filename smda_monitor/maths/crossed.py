"""Intervals of figures that vary in two ways at once, by prompt and by seed of training: a crossed bootstrap.

Each resample draws seeds and prompts with replacement, each for itself; a drawn seed is drawn in every arm, and a drawn
prompt in every seed. With d (s, n) the change of each prompt under each seed, resample b weights it by a_b (s,), the
drawn seeds' shares, and c_b (n,), the drawn prompts' shares:

    mean_b = a_b d c_b                    recovered_b = Σ_j c_bj d̄F_bj d̄P_bj / Σ_j c_bj d̄P_bj²,   d̄_b = a_b d

The interval is that of the 2.5 % and 97.5 % quantiles over b. scipy's ``bootstrap`` draws along one axis alone. Few
seeds make it a little too narrow: of three it sees two thirds of their variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ..records.policy_findings import Estimate

RESAMPLES = 4000
"""Resamples of an interval."""
LEVEL = 0.95
"""Part of resamples that lie within it."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Shares of seeds and prompts in every resample; a row sums to 1."""

    seeds: Float64[Tensor, "b s"]
    """Of seeds."""
    prompts: Float64[Tensor, "b n"]
    """Of prompts."""


def draw(seeds: int, prompts: int, seed: int, resamples: int = RESAMPLES) -> Draws:
    """`resamples` draws of so many seeds and prompts; the same for the same `seed`. No global random state is used."""
    generator = torch.Generator().manual_seed(seed)
    return Draws(*(_shares(size, resamples, generator) for size in (seeds, prompts)))


def mean_change(d: Float64[Tensor, "s n"], by: Draws, level: float = LEVEL) -> Estimate:
    """Mean of `d` over seeds and prompts with its interval; NaN throughout without a prompt."""
    if not d.numel():
        return Estimate(float("nan"), float("nan"), float("nan"))
    return _estimate(d.mean(), torch.einsum("bs,sn,bn->b", by.seeds, d, by.prompts), level)


def recovered(d: Float64[Tensor, "s n"], truth: Float64[Tensor, "s n"], by: Draws, level: float = LEVEL) -> Estimate:
    """⟨d̄, t̄⟩ / ‖t̄‖² with its interval, d̄ and t̄ the means of `d` and `truth` over seeds: how much of `truth` is in
    `d`. NaN where `truth` is 0, also in a resample."""
    value = _part(d.mean(0), truth.mean(0), torch.ones_like(d[0]))
    return _estimate(value, _part(by.seeds @ d, by.seeds @ truth, by.prompts), level)


def recovered_apart(d: Float64[Tensor, "s n"], truth: Float64[Tensor, "s n"]) -> float:
    """Σ_{s≠s'} ⟨d_s, t_s'⟩ / Σ_{s≠s'} ⟨t_s, t_s'⟩. The noise of a seed's baseline is in its `d` and in its `truth`, so
    that `recovered` of no effect at all lies above 0; this does not. NaN where the divisor is not above 0: then seeds
    do not agree on `truth`, or there is but one."""
    above, below = _apart(d, truth), _apart(truth, truth)
    return above / below if below > 0 else float("nan")


def _apart(left: Tensor, right: Tensor) -> float:
    return float(left.sum(0) @ right.sum(0) - (left * right).sum())


def _part(d: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    below = (weights * truth * truth).sum(-1)
    return torch.where(below > 0, (weights * d * truth).sum(-1) / below, float("nan"))


def _shares(size: int, resamples: int, generator: torch.Generator) -> Float64[Tensor, "b size"]:
    drawn = torch.randint(size, (resamples, size), generator=generator) if size else torch.zeros(resamples, 0).long()
    ones = torch.ones(drawn.shape, dtype=torch.float64)
    return torch.zeros(resamples, size, dtype=torch.float64).scatter_add_(1, drawn, ones) / max(1, size)


def _estimate(value: Tensor, resampled: Tensor, level: float) -> Estimate:
    if not bool(resampled.isfinite().all()):
        return Estimate(float(value), float("nan"), float("nan"))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = resampled.quantile(ends).tolist()
    return Estimate(float(value), low, high)
