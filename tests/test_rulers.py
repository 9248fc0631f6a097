"""Rulers: a planted direction found, the scale of ±1 on what was not seen, and the policy's own opinion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_policies import made_policy
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from torch import Tensor

from smda_monitor.maths.ridge import choose_alpha, predict
from smda_monitor.maths.rulers import FOLDS, LEAST_SPREAD, balanced, fit_ruler, opinion, read_answers, read_by
from smda_monitor.records.policy import SymbolicPolicy


def made(n: int, part: float, d: int = 30, noise: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n vectors, a `part` of which show it: by as much along one direction as others lack it."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(d, generator=generator, dtype=torch.float64)
    shows = torch.rand(n, generator=generator) < part
    vectors = 7 + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return vectors + torch.where(shows, 1.0, -1.0).double()[:, None] * direction, shows


@pytest.mark.parametrize("part", [0.4, 0.1])
def test_a_planted_direction_is_found_and_reads_one_either_way(part: float) -> None:
    vectors, shows = made(1200, part)
    ruler = fit_ruler(vectors[:300], shows[:300])
    reading = read_by(ruler, vectors[300:])
    assert roc_auc_score(shows[300:].numpy(), reading.numpy()) > 0.9
    assert float(reading[shows[300:]].mean()) == pytest.approx(1, abs=0.25)
    assert float(reading[~shows[300:]].mean()) == pytest.approx(-1, abs=0.25)
    shuffled = fit_ruler(vectors[:300], shows[:300][torch.randperm(300, generator=torch.Generator().manual_seed(0))])
    assert roc_auc_score(shows[300:].numpy(), read_by(shuffled, vectors[300:]).numpy()) < 0.8, "the labels made it"


def test_the_few_are_not_read_as_the_many() -> None:
    """The plain Ridge, shrunk towards the mean of all, reads most of a small sort as the other one."""
    vectors, shows = made(1200, 0.1, noise=7.0)
    target = torch.where(shows[:300], 1.0, -1.0).double()
    plain = torch.linalg.lstsq(torch.cat([vectors[:300], torch.ones(300, 1).double()], 1), target[:, None]).solution[
        :, 0
    ]
    below = (vectors[300:] @ plain[:-1] + plain[-1])[shows[300:]] < 0
    ours = read_by(fit_ruler(vectors[:300], shows[:300]), vectors[300:])[shows[300:]] < 0
    assert float(below.double().mean()) > 0.5 > 0.3 > float(ours.double().mean())


def test_sorts_that_cannot_be_told_apart_read_little() -> None:
    _, shows = made(400, 0.5)
    noise = 7 + torch.randn(800, 30, generator=torch.Generator().manual_seed(3)).double()
    found = read_by(fit_ruler(noise[:400], shows), noise[400:])
    told, _ = made(400, 0.5)
    assert float(found.std()) < 1 < float(read_by(fit_ruler(told, shows), told).std()) / LEAST_SPREAD


def test_an_example_that_weighs_twice_is_two() -> None:
    """But for alpha, which is chosen by leaving one out: copies of one example tell each other."""
    vectors, shows = made(60, 0.5)
    weight = torch.ones(60).double()
    weight[:20] = 2
    at = torch.cat([torch.arange(60), torch.arange(20)])
    alpha = choose_alpha(vectors / vectors.std(), torch.where(shows, 1.0, -1.0).double(), weight)
    twice = Ridge(alpha=alpha).fit((vectors / vectors.std())[at].numpy(), torch.where(shows, 1.0, -1.0)[at].numpy())
    ours = fit_ruler(vectors, shows, weight).direction
    theirs = torch.from_numpy(twice.coef_).double()
    assert torch.allclose(ours / ours.norm(), theirs / theirs.norm(), atol=1e-6)
    assert not torch.allclose(ours, fit_ruler(vectors, shows).direction, rtol=1e-3), "weights count"


def crossed(n: int, seed: int, often: float) -> tuple[Tensor, Tensor, Tensor]:
    """n answers whose vectors hold along one direction what was asked and, more strongly, along another what they show;
    `often` they do what was asked."""
    generator = torch.Generator().manual_seed(seed)
    asked = torch.rand(n, generator=generator) < 0.5
    shows = asked ^ (torch.rand(n, generator=generator) > often)
    vectors = 2 * torch.randn(n, 12, generator=generator).double()
    vectors[:, 0] += torch.where(asked, 1.0, -1.0)
    vectors[:, 1] += 3 * torch.where(shows, 1.0, -1.0)
    return vectors, shows, asked


def test_what_was_asked_is_told_from_what_is_shown() -> None:
    """Where nine in ten answers do what was asked, an even Ridge takes what they show for what was asked."""
    vectors, shows, asked = crossed(1500, 0, 0.9)
    new, new_shows, new_asked = crossed(1500, 1, 0.5)
    against = new_shows ^ new_asked

    def right(weight: Tensor | None) -> float:
        return float(((read_by(fit_ruler(vectors, asked, weight), new) > 0) == new_asked)[against].double().mean())

    assert right(None) < 0.5 < 0.6 < right(balanced(shows, asked))


def test_sorts_weigh_the_same() -> None:
    _, shows, asked = crossed(400, 2, 0.8)
    weight = balanced(shows, asked)
    assert float(weight.mean()) == pytest.approx(1)
    for one in (shows, ~shows):
        for other in (asked, ~asked):
            assert float(weight[one & other].sum()) == pytest.approx(100)
    assert balanced(torch.tensor([True, True, False])).tolist() == pytest.approx([0.75, 0.75, 1.5]), "of one label"


def test_answers_are_read_by_both_rulers() -> None:
    vectors, shows, asked = crossed(200, 3, 0.7)
    policy = made_policy(torch.ones(1).double())
    assert read_answers(policy, vectors) is None
    one, other = fit_ruler(vectors, shows), fit_ruler(vectors, asked)
    alone = read_answers(replace(policy, answers=one), vectors)
    both = read_answers(replace(policy, answers=one, asked=other), vectors)
    assert alone is not None
    assert both is not None
    assert torch.equal(both, torch.stack([read_by(one, vectors), read_by(other, vectors)], 1))
    assert torch.equal(alone[:, 0], both[:, 0])
    assert bool(alone[:, 1].isnan().all())


@pytest.mark.parametrize("few", [1, 2])
def test_a_sort_of_one_or_two_is_enough(few: int) -> None:
    assert few < FOLDS
    vectors, _ = made(12, 0.5)
    shows = torch.arange(12) < few
    ruler = fit_ruler(vectors, shows)
    assert bool(read_by(ruler, vectors).isfinite().all())
    assert float(read_by(ruler, vectors)[shows].mean()) > float(read_by(ruler, vectors)[~shows].mean())


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 100))
def test_units_of_the_vectors_do_not_matter(by: float, shift: float, seed: int) -> None:
    vectors, shows = made(60, 0.5, d=5, seed=seed)
    assume(2 < int(shows.sum()) < 58)
    there, here = by * vectors + shift, vectors
    one, other = read_by(fit_ruler(here, shows), here), read_by(fit_ruler(there, shows), there)
    assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


# the policy's own opinion


def tilted(coef: Tensor, intercept: float = 0.5) -> SymbolicPolicy:
    X = torch.randn(12, len(coef), generator=torch.Generator().manual_seed(1))
    return made_policy(coef, intercept, X)


def test_opinion_lies_midway_between_the_two_sorts() -> None:
    """Predictions 4, 6 of the one sort and −3, −1, −2 of the other: midway 1.5, half the distance 3.5."""
    policy = made_policy(
        torch.tensor([2.0]).double(), 1.0, torch.tensor([[1.5], [2.5], [-2.0], [-1.0], [-1.5], [99.0]])
    )
    ruler = opinion(policy, torch.tensor([True, True, False, False, False]))
    found = read_by(ruler, torch.tensor([[0.25], [2.0], [-1.5]]).double())
    assert found.tolist() == pytest.approx([0, 1, -1])
    swapped = opinion(policy, torch.tensor([False, False, True, True, True]))
    other = read_by(swapped, torch.tensor([[0.25], [2.0], [-1.5]]).double())
    assert other.tolist() == pytest.approx([0, -1, 1]), "also of a behaviour that is shown on the others"


@pytest.mark.parametrize("all_harmful", [True, False])
def test_opinion_of_one_sort_alone(all_harmful: bool) -> None:
    policy = tilted(torch.tensor([1.0, -2.0, 0.5]).double())
    found = read_by(opinion(policy, torch.full((len(policy.X),), all_harmful)), policy.X.double())
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std(unbiased=False)) == pytest.approx(1)


def test_a_policy_without_opinion_still_has_a_ruler() -> None:
    policy = tilted(torch.zeros(3).double())
    for harmful in (torch.arange(12) < 2, torch.ones(12, dtype=torch.bool)):
        assert bool(read_by(opinion(policy, harmful), policy.X.double()).isfinite().all())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_a_higher_prediction_is_a_stronger_opinion(coef: list[float]) -> None:
    policy = tilted(torch.tensor(coef).double())
    harmful, prediction = torch.arange(12) % 2 == 0, predict(policy, policy.X)
    rising = read_by(opinion(policy, harmful), policy.X.double())[prediction.argsort()].diff()
    shown_on_the_others = prediction[harmful].mean() < prediction[~harmful].mean()
    assert bool(((-rising if shown_on_the_others else rising) >= -1e-9).all())
