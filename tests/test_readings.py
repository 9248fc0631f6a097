"""Readings from logits, against 60-digit arithmetic that sums probabilities over the prefixes of the tree."""

from __future__ import annotations

import mpmath as mp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_opening_tree import Sequences, prefix_free_sets, prefix_of
from torch import Tensor

from smda_monitor.maths.opening_tree import OpeningTree, build_tree
from smda_monitor.maths.readings import read_openings

VOCABULARY = 7
BEHAVIOUR: Sequences = [(1, 2), (1, 3, 4), (5,)]
OPPOSITE: Sequences = [(1, 6), (2, 2)]


def random_logits(tree: OpeningTree, b: int = 2, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(b, tree.n_positions, VOCABULARY, generator=generator, dtype=torch.float64)


def shifted(logits: Tensor, tree: OpeningTree, by: float) -> Tensor:
    """`by` added to every token that stays in the behaviour's tree, at every position of it."""
    moved = logits.clone()
    edges = {tree.edges[e] for path in tree.paths[: tree.n_behaviour] for e in path}
    for position, token in edges:
        moved[:, position, token] += by
    return moved


class Exact:
    """The readings of one prompt in 60 digits; 1 − P is the sum over all ways of leaving, one by one."""

    def __init__(self, tree: OpeningTree, logits: Tensor) -> None:
        self.p: dict[tuple[int, ...], list[mp.mpf]] = {}
        with mp.workdps(60):
            for position, row in enumerate(logits.tolist()):
                weights = [mp.e ** mp.mpf(value) for value in row]
                self.p[prefix_of(tree, position)] = [w / mp.fsum(weights) for w in weights]
            self.openings = [mp.log(self._probability(s)) for s in tree.sequences]
            ours, others = tree.sequences[: tree.n_behaviour], self.openings[tree.n_behaviour :]
            self.P = mp.fsum(self._probability(s) for s in ours)
            inner = {s[:i] for s in ours for i in range(len(s))}
            self.leaving = mp.fsum(
                self._probability(prefix) * self.p[prefix][token]
                for prefix in inner
                for token in range(VOCABULARY)
                if (*prefix, token) not in inner and (*prefix, token) not in ours
            )
            self.mass = mp.log(self.P) - mp.log(self.leaving)
            self.contrast = mp.fsum(self.openings[: len(ours)]) / len(ours)
            self.contrast -= mp.fsum(others) / len(others) if others else mp.nan

    def _probability(self, sequence: tuple[int, ...]) -> mp.mpf:
        return mp.fprod(self.p[sequence[:i]][token] for i, token in enumerate(sequence))


@pytest.mark.parametrize("shift", [-60.0, -30.0, 0.0, 30.0, 60.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_exact_at_both_ends(shift: float, dtype: torch.dtype, tolerance: float) -> None:
    tree = build_tree(BEHAVIOUR, OPPOSITE)
    logits = shifted(random_logits(tree), tree, shift).to(dtype)
    found = read_openings(logits, tree)
    for b in range(2):
        exact = Exact(tree, logits[b])
        assert found.mass[b].item() == pytest.approx(float(exact.mass), abs=tolerance)
        assert found.log_probability[b].item() == pytest.approx(float(mp.log(exact.P)), abs=tolerance)
        assert found.contrast[b].item() == pytest.approx(float(exact.contrast), abs=tolerance)
        assert found.openings[b].tolist() == pytest.approx([float(o) for o in exact.openings], abs=tolerance)
    assert all(t.dtype == torch.float64 for t in (found.openings, found.mass, found.log_probability, found.contrast))


def test_the_ends_are_ends() -> None:
    """Not vacuous: by subtraction float64 loses digits at one end and everything further out."""
    tree = build_tree(BEHAVIOUR, OPPOSITE)
    for shift, lost in ((30.0, 1e-5), (60.0, float("inf"))):
        logits = shifted(random_logits(tree), tree, shift)
        exact = Exact(tree, logits[0])
        assert 0 < exact.leaving < mp.mpf("1e-10")
        naive = float(exact.P)
        odds = mp.log(naive) - mp.log(1 - naive) if naive < 1 else mp.inf
        assert abs(odds - exact.mass) >= lost


@pytest.mark.parametrize("end", [1e-12, 0.3, 1 - 1e-12])
def test_a_known_probability(end: float) -> None:
    logit = mp.log(mp.mpf(end) / (1 - mp.mpf(end)))
    tree = build_tree([(0,)], [(1,)])
    found = read_openings(torch.tensor([[[float(logit), 0.0]]], dtype=torch.float64), tree)
    assert found.mass.item() == pytest.approx(float(logit), rel=1e-14)
    assert found.log_probability.item() == pytest.approx(float(mp.log(end)), abs=1e-14)


def test_without_opposite_the_contrast_is_unknown_and_the_rest_is_not() -> None:
    found = read_openings(random_logits(build_tree(BEHAVIOUR, [])), build_tree(BEHAVIOUR, []))
    assert bool(found.contrast.isnan().all())
    assert bool(found.mass.isfinite().all())


def test_y_is_the_reading_that_the_policy_names() -> None:
    tree = build_tree(BEHAVIOUR, OPPOSITE)
    found = read_openings(random_logits(tree), tree)
    assert torch.equal(found.y("mass"), found.mass)
    assert torch.equal(found.y("log_probability"), found.log_probability)
    assert not torch.equal(found.mass, found.log_probability)


@settings(max_examples=40, deadline=None)
@given(prefix_free_sets(), st.integers(0, 10**6))
def test_tree_and_leaving_are_everything(sets: tuple[Sequences, Sequences], seed: int) -> None:
    tree = build_tree(*sets)
    logits = random_logits(tree, seed=seed)
    found = read_openings(logits, tree)
    for b in range(2):
        exact = Exact(tree, logits[b])
        assert abs(exact.P + exact.leaving - 1) < mp.mpf("1e-40")
        assert found.mass[b].item() == pytest.approx(float(exact.mass), abs=1e-10)
    # The log-odds' own probability is the summed one, and its complement what is left.
    assert torch.allclose(torch.sigmoid(found.mass), found.log_probability.exp(), rtol=1e-10)
    total = torch.sigmoid(found.mass) + torch.sigmoid(-found.mass)
    assert torch.allclose(total, torch.ones(2, dtype=torch.float64))
    # All k openings exclude each other.
    assert bool((found.openings.exp().sum(-1) <= 1 + 1e-12).all())


@settings(max_examples=30, deadline=None)
@given(prefix_free_sets(), st.integers(0, 10**6), st.floats(-50, 50))
def test_a_constant_on_the_logits_of_a_position_says_nothing(
    sets: tuple[Sequences, Sequences], seed: int, constant: float
) -> None:
    tree = build_tree(*sets)
    logits = random_logits(tree, seed=seed)
    moved = logits + constant * torch.arange(1, tree.n_positions + 1)[None, :, None]
    one, other = read_openings(logits, tree), read_openings(moved, tree)
    assert torch.allclose(one.mass, other.mass, atol=1e-9)
    assert torch.allclose(one.openings, other.openings, atol=1e-9)


def test_two_openings_that_are_everything_are_each_others_opposite() -> None:
    logits = torch.tensor([[[1.3, -0.4]]], dtype=torch.float64)
    one, other = build_tree([(0,)], [(1,)]), build_tree([(1,)], [(0,)])
    assert read_openings(logits, one).mass.item() == pytest.approx(1.7)
    assert read_openings(logits, other).mass.item() == pytest.approx(-1.7)
    assert read_openings(logits, one).contrast.item() == pytest.approx(1.7)


def test_order_of_the_openings_does_not_matter() -> None:
    forward, backward = build_tree(BEHAVIOUR, OPPOSITE), build_tree(BEHAVIOUR[::-1], OPPOSITE[::-1])
    logits = random_logits(forward)
    places = {prefix_of(forward, p): p for p in range(forward.n_positions)}
    other = logits[:, [places[prefix_of(backward, p)] for p in range(backward.n_positions)]]
    one, two = read_openings(logits, forward), read_openings(other, backward)
    assert torch.allclose(one.mass, two.mass, atol=1e-12)
    assert torch.allclose(one.openings, two.openings[:, [2, 1, 0, 4, 3]], atol=1e-12)


@pytest.mark.parametrize("shift", [-20.0, 0.0, 20.0])
def test_gradients(shift: float) -> None:
    tree = build_tree(BEHAVIOUR, OPPOSITE)
    logits = shifted(random_logits(tree), tree, shift).requires_grad_()

    def three(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = read_openings(x, tree)
        return found.mass, found.contrast, found.log_probability

    assert torch.autograd.gradcheck(three, (logits,), atol=1e-6)
    found = read_openings(logits, tree)
    (mass,) = torch.autograd.grad(found.mass.sum(), logits, retain_graph=True)
    (probability,) = torch.autograd.grad(found.log_probability.sum(), logits)
    # d log P = (1 − P) d mass, by which the paper's reading takes its gradient from the log-odds'.
    left = torch.sigmoid(-found.mass)[:, None, None]
    assert torch.allclose(probability, left * mass, rtol=1e-6, atol=1e-14)
    assert float(mass.abs().max()) > 0.1
