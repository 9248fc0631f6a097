"""The stratified part and its estimator: laws, and unbiasedness by going through every possible sample."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from itertools import combinations, product
from math import comb, isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smda_monitor.errors import ConfigError
from smda_monitor.maths.sampling import stratified, stratum_weights, weighted_mean_and_error

SHIPPED_SHAPE = [f"{kind}/{c:02}" for kind in ("harmful", "lookalike") for c in range(12) for _ in range(5)]
SHIPPED_SHAPE += ["benign/everyday"] * 24
"""Strata as in the shipped probe set: 144 probes, 25 strata of very different size."""

populations = st.lists(
    st.tuples(st.sampled_from(["harmful", "lookalike", "benign"]), st.sampled_from("abcd")).map("/".join),
    min_size=1,
    max_size=40,
)
seeds = st.integers(0, 1000)
laws = settings(max_examples=60, deadline=None)


def kind(stratum: str) -> str:
    return stratum.split("/")[0]


@laws
@given(populations, st.integers(1, 45), seeds)
def test_law_size_order_and_determinism(strata: list[str], size: int, seed: int) -> None:
    random.seed(seed)
    chosen = stratified(strata, size, seed)
    assert chosen == sorted(set(chosen))
    random.seed(seed + 1)
    assert chosen == stratified(strata, size, seed), "the draw depends on the global generator"
    assert len(chosen) == min(size, len(strata))
    assert all(0 <= i < len(strata) for i in chosen)


def test_global_generators_are_left_alone() -> None:
    """In a process of its own: the type checker that runs inside these tests draws from `random` itself."""
    code = (
        "import random, numpy, torch; from smda_monitor.maths.sampling import stratified\n"
        "state = lambda: (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist())\n"
        "before = state(); stratified(['a/x'] * 9 + ['b/y'] * 5, 6, 0); assert state() == before\n"
        "random.random(); assert state() != before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@laws
@given(populations, st.integers(1, 45), seeds)
def test_law_proportional_with_at_least_one(strata: list[str], size: int, seed: int) -> None:
    counts, size = Counter(strata), min(size, len(strata))
    taken = Counter(strata[i] for i in stratified(strata, size, seed))
    quota = {h: size * n / len(strata) for h, n in counts.items()}
    if size >= len(counts):
        assert all(taken[h] >= 1 for h in counts)
        if all(q >= 1 for q in quota.values()):
            assert all(abs(taken[h] - q) < 1 for h, q in quota.items())
            rounded_up = [quota[h] % 1 for h in counts if taken[h] > quota[h]]
            rounded_down = [quota[h] % 1 for h in counts if taken[h] < quota[h]]
            assert not rounded_up or not rounded_down or min(rounded_up) >= max(rounded_down) - 1e-9
        # A larger stratum never gets fewer.
        assert all(taken[g] >= taken[h] - 1 for g in counts for h in counts if counts[g] >= counts[h])
        assert all(taken[g] >= taken[h] for g in counts for h in counts if counts[g] > counts[h])
    else:
        kinds, taken_kinds = Counter(map(kind, strata)), Counter[str]()
        for h, n in taken.items():
            taken_kinds[kind(h)] += n
        if size >= len(kinds):
            assert all(taken_kinds[k] >= 1 for k in kinds)
        if all(size * n / len(strata) >= 1 for n in kinds.values()):
            assert all(abs(taken_kinds[k] - size * n / len(strata)) < 1 for k, n in kinds.items())


def test_the_shipped_shape() -> None:
    chosen = stratified(SHIPPED_SHAPE, 32, 0)
    strata = Counter(SHIPPED_SHAPE[i] for i in chosen)
    kinds = Counter(kind(SHIPPED_SHAPE[i]) for i in chosen)
    assert len(strata) == 25
    assert kinds == {"harmful": 13, "lookalike": 13, "benign": 6}
    assert stratified(SHIPPED_SHAPE, 144, 0) == stratified(SHIPPED_SHAPE, 500, 0) == list(range(144))
    assert stratified(SHIPPED_SHAPE, 32, 1) != chosen


def test_equal_remainders_are_dealt_evenly_over_kinds() -> None:
    """Of 40 seats 9 are left for 24 strata with the same remainder: no draw may favour harmful or look-alike probes."""
    for seed in range(20):
        kinds = Counter(kind(SHIPPED_SHAPE[i]) for i in stratified(SHIPPED_SHAPE, 40, seed))
        assert kinds["benign"] == 7
        assert abs(kinds["harmful"] - kinds["lookalike"]) == 1


def test_every_probe_of_a_stratum_is_equally_likely() -> None:
    drawn = Counter(i for seed in range(2000) for i in stratified(["a/x"] * 4 + ["b/y"] * 4, 4, seed))
    assert all(abs(drawn[i] / 2000 - 0.5) < 0.05 for i in range(8))


def test_fewer_than_strata_rotates_the_categories() -> None:
    covered: set[str] = set()
    for seed in range(12):
        chosen = [SHIPPED_SHAPE[i] for i in stratified(SHIPPED_SHAPE, 12, seed)]
        assert Counter(map(kind, chosen)) == {"harmful": 5, "lookalike": 5, "benign": 2}
        by_kind = {k: {h.split("/")[1] for h in chosen if kind(h) == k} for k in ("harmful", "lookalike")}
        assert by_kind["harmful"] == by_kind["lookalike"], "kinds are compared on the same categories"
        assert len(by_kind["harmful"]) == 5
        covered |= by_kind["harmful"]
    assert len(covered) == 12


@pytest.mark.parametrize("size", [0, -3])
def test_size_must_be_positive(size: int) -> None:
    with pytest.raises(ConfigError, match="number of probes"):
        stratified(SHIPPED_SHAPE, size, 0)


@laws
@given(populations, st.data())
def test_law_weights_stand_for_everyone(strata: list[str], data: st.DataObject) -> None:
    positions = st.sampled_from(range(len(strata)))
    chosen = data.draw(st.lists(positions, min_size=1, max_size=len(strata), unique=True))
    weights = stratum_weights(strata, chosen)
    assert weights.dtype == torch.float64
    assert weights.shape == (len(chosen),)
    assert bool((weights > 0).all())
    assert float(weights.sum()) == pytest.approx(len(strata))
    measured = [strata[i] for i in chosen]
    if set(map(kind, measured)) == set(map(kind, strata)):
        for k, n in Counter(map(kind, strata)).items():
            assert float(sum(w for w, h in zip(weights, measured, strict=True) if kind(h) == k)) == pytest.approx(n)
    if set(measured) == set(strata):
        for w, h in zip(weights, measured, strict=True):
            assert float(w) == pytest.approx(strata.count(h) / measured.count(h))


def test_weights_on_constructed_truth() -> None:
    strata = ["h/a", "h/a", "h/b", "h/b", "h/b", "h/b", "b/x"]
    assert stratum_weights(strata, range(7)).tolist() == [1.0] * 7
    assert stratum_weights(strata, [6, 0, 2, 3]).tolist() == [1.0, 2.0, 2.0, 2.0]
    assert stratum_weights(strata, [0, 1, 6]).tolist() == [3.0, 3.0, 1.0], "h/b's mass goes to h/a"
    assert stratum_weights(strata, [6]).tolist() == [7.0], "with a whole kind unmeasured the rest stands for all"
    with pytest.raises(ConfigError, match="measured probes"):
        stratum_weights(strata, [])


def estimate(values: np.ndarray, strata: list[str], chosen: list[int]) -> tuple[float, float]:
    measured = torch.from_numpy(values[chosen])
    return weighted_mean_and_error(measured, stratum_weights(strata, chosen), [strata[i] for i in chosen], strata)


@laws
@given(populations, seeds)
def test_law_everything_measured_has_no_error(strata: list[str], seed: int) -> None:
    values = np.random.default_rng(seed).normal(-9, 3, size=len(strata))
    mean, error = estimate(values, strata, list(range(len(strata))))
    assert mean == pytest.approx(values.mean())
    assert error == 0.0


@laws
@given(populations, st.integers(2, 40), seeds, st.floats(-5, 5), st.floats(0.1, 10))
def test_law_location_and_scale(strata: list[str], size: int, seed: int, shift: float, scale: float) -> None:
    values = np.random.default_rng(seed).normal(size=len(strata))
    chosen = stratified(strata, size, seed)
    mean, error = estimate(values, strata, chosen)
    moved_mean, moved_error = estimate(scale * values + shift, strata, chosen)
    assert moved_mean == pytest.approx(scale * mean + shift, abs=1e-9)
    assert len(strata) == 1 or not isnan(error)
    assert moved_error == pytest.approx(scale * error, abs=1e-9)
    constant_mean, constant_error = estimate(np.full(len(strata), shift), strata, chosen)
    assert constant_mean == pytest.approx(shift)
    assert constant_error == pytest.approx(0, abs=1e-9)


def every_sample(values: np.ndarray, strata: list[str], seats: dict[str, int]) -> tuple[list[float], list[float]]:
    """The estimates and squared errors of every sample with `seats`, all equally likely."""
    draws = [list(combinations([i for i, h in enumerate(strata) if h == g], n)) for g, n in seats.items()]
    found = [estimate(values, strata, [i for part in parts for i in part]) for parts in product(*draws)]
    return [mean for mean, _ in found], [error**2 for _, error in found]


def test_unbiased_mean_and_variance_over_all_samples() -> None:
    """With two or more values per stratum the estimator's textbook properties hold exactly."""
    strata = ["h/a"] * 5 + ["h/b"] * 3 + ["b/x"] * 4
    values = np.random.default_rng(0).normal(size=12) * 3 + np.array([0] * 5 + [9] * 3 + [-7] * 4)
    means, variances = every_sample(values, strata, {"h/a": 2, "h/b": 2, "b/x": 3})
    assert len(means) == comb(5, 2) * comb(3, 2) * comb(4, 3)
    assert np.mean(means) == pytest.approx(values.mean())
    assert np.mean(variances) == pytest.approx(np.var(means))
    unstratified = np.var([values[list(c)].mean() for c in combinations(range(12), 7)])
    assert np.mean(variances) < unstratified / 3, "the strata matter here"


@pytest.mark.parametrize("spread", [0.0, 5.0])
def test_single_values_are_collapsed_within_their_kind(spread: float) -> None:
    """Exact where the strata of a kind have one mean, on the large side where they differ; other kinds do not enter."""
    strata = [f"h/{c}" for c in "abc" for _ in range(3)] + ["b/x"] * 4
    rng = np.random.default_rng(1)
    values = rng.normal(size=13)
    for c in range(3):
        part = slice(3 * c, 3 * c + 3)
        values[part] += c * spread - values[part].mean()
    values[9:] += 1000
    means, variances = every_sample(values, strata, {"h/a": 1, "h/b": 1, "h/c": 1, "b/x": 2})
    assert np.mean(means) == pytest.approx(values.mean())
    if spread == 0:
        assert np.mean(variances) == pytest.approx(np.var(means))
    else:
        assert np.var(means) < np.mean(variances) < 1000


def test_error_on_constructed_truth() -> None:
    one_stratum = ["h/a"] * 10
    mean, error = estimate(np.arange(10.0), one_stratum, [0, 4, 5, 9])
    assert mean == pytest.approx(4.5)
    assert error == pytest.approx(sqrt((1 - 0.4) * np.var([0, 4, 5, 9], ddof=1) / 4))
    gap = ["h/a"] * 4 + ["h/b"] * 4  # h/b unmeasured: h is one stratum of 8
    mean, error = estimate(np.arange(8.0), gap, [0, 2])
    assert mean == pytest.approx(1.0)
    assert error == pytest.approx(sqrt((1 - 2 / 8) * 2.0 / 2))
    lone = ["h/a"] * 3 + ["b/x"] * 3  # each kind has one value: both borrow the variance of all
    mean, error = estimate(np.arange(6.0), lone, [0, 4])
    assert mean == pytest.approx(2.0)
    assert error == pytest.approx(sqrt(8.0 * (0.25 + 0.25)))
    whole = ["h/a", "h/b", "h/b"]  # h/a is measured whole with its one probe and adds nothing
    _, error = estimate(np.array([50.0, 1.0, 1.0]), whole, [0, 1])
    assert error == pytest.approx(sqrt(np.var([50.0, 1.0], ddof=1) * (2 / 3) ** 2))
    assert isnan(estimate(np.arange(3.0), ["h/a"] * 3, [1])[1])
    with pytest.raises(ConfigError, match="measured probes"):
        weighted_mean_and_error(torch.zeros(0), torch.zeros(0), [], one_stratum)


def test_the_error_covers_on_the_shipped_shape() -> None:
    """Two standard errors hold the truth in about 95 % of draws, with 32 of 144 and mostly single values."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=144) + np.array([4 if h.startswith("harmful") else -6 for h in SHIPPED_SHAPE])
    inside = 0
    for seed in range(200):
        mean, error = estimate(values, SHIPPED_SHAPE, stratified(SHIPPED_SHAPE, 32, seed))
        inside += abs(mean - values.mean()) < 2 * error
    assert 0.88 < inside / 200 < 0.995
