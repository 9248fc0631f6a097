"""Which probes are measured between the first and the last snapshot, and what they say of the whole set.

A stratum is a string ``kind/category``. A stratified part is drawn once; each measured probe stands for N_h/n_h probes
of its stratum, and a mean over it is the textbook stratified estimator with its standard error (Cochran, Sampling
Techniques, ch. 5), the strata with one observation collapsed within their kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from random import Random

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..errors import ConfigError, describe
from ..records.probes import Probe


def stratum(probe: Probe) -> str:
    """The stratum of a probe: ``kind/category``."""
    return f"{probe.kind}/{probe.category}"


def stratified(strata: Sequence[str], size: int, seed: int) -> list[int]:
    """`size` of the positions 0 … N−1, sorted; all of them where size ≥ N. Deterministic, from no global state.

    Where size ≥ the number of strata: seats in proportion to N_h by largest remainder, at least one per stratum; equal
    remainders go to the kind that is furthest behind its proportion. Otherwise seats in proportion to the kinds (at
    least one each, where size allows), and inside a kind to its categories in turn, starting at category `seed` modulo
    their number, so that kinds are compared on the same categories and another seed covers others. Inside a stratum the
    draw is uniform, seeded by `seed` and the stratum's name alone.

    Raises `ConfigError` for size < 1.
    """
    if size < 1:
        raise ConfigError(describe("number of probes to measure", size, "at least 1", "leave it out to measure all"))
    if size >= len(strata):
        return list(range(len(strata)))
    counts = dict(sorted(Counter(strata).items()))
    by_kind = _by_kind(counts)
    if size >= len(counts):
        seats = _largest_remainder(counts, size, seed)
    else:
        kinds = {kind: sum(group.values()) for kind, group in by_kind.items()}
        seats = {}
        for kind, kind_seats in _largest_remainder(kinds, size, seed).items():
            seats |= _in_turn(by_kind[kind], kind_seats, seed)
    chosen: list[int] = []
    for stratum, taken in seats.items():
        positions = [i for i, s in enumerate(strata) if s == stratum]
        chosen += Random(f"{seed}/{stratum}").sample(positions, taken)
    return sorted(chosen)


def stratum_weights(strata: Sequence[str], chosen: Sequence[int]) -> Float64[Tensor, " m"]:
    """How many probes each chosen one stands for, in the order of `chosen`; all > 0.

    N_h/n_h, times N_kind over the N_h of the kind's measured strata where some of its strata were not measured. So the
    weights of a kind sum to N_kind, and all to N. Only where a whole kind is unmeasured is its mass spread over the
    others, and their kinds' sums are larger by that. Raises `ConfigError` where nothing was chosen.
    """
    if not chosen:
        raise ConfigError(describe("measured probes", "none", "at least one", "choose at least one probe"))
    population, sample = Counter(strata), Counter(strata[i] for i in chosen)
    reached = {kind: sum(n for h, n in group.items() if sample[h]) for kind, group in _by_kind(population).items()}
    kinds = {kind: sum(group.values()) for kind, group in _by_kind(population).items()}
    rescale = len(strata) / sum(n for kind, n in kinds.items() if reached[kind])
    return torch.tensor(
        [
            population[h] / sample[h] * kinds[_kind(h)] / reached[_kind(h)] * rescale
            for h in (strata[i] for i in chosen)
        ],
        dtype=torch.float64,
    )


def weighted_mean_and_error(
    values: Float[Tensor, " m"], weights: Float[Tensor, " m"], strata: Sequence[str], population: Sequence[str]
) -> tuple[float, float]:
    """(mean, standard error) of a reading over the whole population, from its measured part; units of `values`.

    `strata` are those of the m measured values, `population` those of all N probes that the mean is about (one kind,
    say, with the values of that kind). mean = Σ weights·values / Σ weights. Its squared error is the sum, with
    ω_j = weights_j / Σ weights, of

    - nothing, for a stratum measured whole; so 0 where everything is measured;
    - (1 − n_h/N_h) s_h² Σ_j ω_j², for a stratum of n_h ≥ 2 values with variance s_h²: the finite population correction;
    - s² Σ_j ω_j², for all strata of one kind with a single value each, collapsed: s² is the variance of those values.
      They are independent draws, so there is no further correction; differences between the strata enter s², so the
      error errs on the large side. A lone one borrows the variance of all values of its kind, else of all values;
    - a kind with an unmeasured stratum is one stratum of N_kind; with a whole kind unmeasured, everything is one.

    The error is NaN where a variance is needed and only one value exists. Raises `ConfigError` where nothing was
    measured.
    """
    if not strata:
        raise ConfigError(describe("measured probes", "none", "at least one", "measure at least one probe"))
    assert Counter(strata) <= Counter(population), "the measured values are not part of the population"
    values, share = values.double(), weights.double() / weights.double().sum()
    variance = 0.0
    for members, size in _groups(strata, population):
        kin = [j for j, h in enumerate(strata) if _kind(h) == _kind(strata[members[0]])]
        donors = next((d for d in (members, kin, list(range(len(strata)))) if len(d) > 1), None)
        spread = float(values[donors].var()) if donors else float("nan")
        variance += (1.0 - len(members) / size) * spread * float(share[members].square().sum())
    return float((share * values).sum()), variance**0.5


def _groups(strata: Sequence[str], population: Sequence[str]) -> list[tuple[list[int], float]]:
    """The groups of measured positions that share one variance, each with the size it was drawn from (inf: no
    correction); strata measured whole are left out, as they add no error."""
    whole, part = Counter(population), Counter(strata)
    kinds = {kind: sum(group.values()) for kind, group in _by_kind(whole).items()}
    gaps = {_kind(h) for h in whole if not part[h]}
    kind_missed = {_kind(h) for h in part} != set(kinds)
    groups: dict[tuple[str, str, float], list[int]] = {}
    for j, h in enumerate(strata):
        if kind_missed:
            key = ("everything", "", float(len(population)))
        elif _kind(h) in gaps:
            key = ("kind", _kind(h), float(kinds[_kind(h)]))
        elif part[h] == whole[h]:
            continue
        elif part[h] > 1:
            key = ("stratum", h, float(whole[h]))
        else:
            key = ("single", _kind(h), float("inf"))
        groups.setdefault(key, []).append(j)
    return [(members, size) for (_, _, size), members in groups.items()]


def _largest_remainder(counts: Mapping[str, int], size: int, seed: int) -> dict[str, int]:
    """Seats in proportion to `counts`, at least one each where size allows, never more than the count; exact."""
    seats: dict[str, int] = {}
    open_ = dict(counts)
    # A group entitled to less than one seat takes one, and the others share the rest; that can push another below 1.
    while size >= len(counts):
        left, total = size - len(seats), sum(open_.values())
        small = [h for h, n in open_.items() if left * n < total]
        if not small:
            break
        for h in small:
            seats[h] = 1
            del open_[h]
    left, total = size - len(seats), sum(open_.values())
    quota = {h: Fraction(left * n, total) for h, n in open_.items()}
    seats |= {h: int(q) for h, q in quota.items()}
    kinds = {kind: sum(group.values()) for kind, group in _by_kind(counts).items()}
    taken = {kind: sum(seats[h] for h in group) for kind, group in _by_kind(counts).items()}
    generator = Random(f"{seed}/remainders")
    luck = {h: generator.random() for h in counts}
    for _ in range(size - sum(seats.values())):
        waiting = [h for h in quota if seats[h] == int(quota[h])]
        ahead = {kind: Fraction(taken[kind]) - Fraction(size * n, sum(counts.values())) for kind, n in kinds.items()}
        rank = {h: (-(quota[h] % 1), ahead[_kind(h)], luck[h]) for h in waiting}
        h = min(waiting, key=rank.__getitem__)
        seats[h] += 1
        taken[_kind(h)] += 1
    return seats


def _in_turn(counts: Mapping[str, int], size: int, seed: int) -> dict[str, int]:
    """`size` seats dealt one at a time to the categories in turn from number ``seed % len``, none beyond its count."""
    names = list(counts)
    names = names[seed % len(names) :] + names[: seed % len(names)]
    seats = dict.fromkeys(names, 0)
    while sum(seats.values()) < size:
        for h in names:
            if seats[h] < counts[h] and sum(seats.values()) < size:
                seats[h] += 1
    return seats


def _kind(stratum: str) -> str:
    return stratum.split("/", 1)[0]


def _by_kind(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for stratum, n in counts.items():
        kinds.setdefault(_kind(stratum), {})[stratum] = n
    return kinds
