"""The score: its written-down formula, what it cannot see, and its laws."""

from __future__ import annotations

import inspect
from math import isnan, nan, tanh

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from smda_monitor.maths.score import Ruler, against, ruler, scores

BY = Ruler(centre=-1.0, spread=2.0)


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PUSHES = st.lists(st.floats(-5, 5).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=1, max_size=9)


def test_by_hand() -> None:
    # Opinions tanh(1), tanh(-2), 0, tanh(0.5); the mean |push| of 0.4, 0.2, 3, 0.4 is 1.
    push, prediction = t(-0.4, 0.2, 3.0, 0.4), t(1.0, -5.0, -1.0, 0.0)
    found = scores(push, prediction, BY)
    assert found.tolist() == pytest.approx([tanh(1) * 0.2, tanh(2) * 0.1, 0.0, -tanh(0.5) * 0.2])
    taught = scores(push, prediction, BY, t(-0.9, 0.8, 0.5, -0.1))
    expected = [tanh(1) * (0.9 + 0.2), tanh(2) * (0.8 + 0.1), 0.0, -tanh(0.5) * (-0.1 + 0.2)]
    assert taught.tolist() == pytest.approx(expected)
    assert against(t(-0.4, 0.2, 3.0, 0.1), t(1.0, -5.0, -1.0, 0.0), BY).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("push", "prediction", "sign"),
    [
        pytest.param(-1.0, 5.0, 1, id="a compliant opening to a harmful prompt"),
        pytest.param(1.0, -9.0, 1, id="a refusal of a benign prompt"),
        pytest.param(1.0, 5.0, -1, id="a refusal of a harmful prompt"),
        pytest.param(-1.0, -9.0, -1, id="help with a benign prompt"),
    ],
)
def test_sign(push: float, prediction: float, sign: int) -> None:
    assert sign * float(scores(t(push, 0.7), t(prediction, 0.0), BY)[0]) > 0
    assert bool(against(t(push), t(prediction), BY)[0]) == (sign > 0)


def test_rows_that_were_not_read_have_no_score_and_set_no_scale() -> None:
    found = scores(t(nan, 0.4, nan, -0.2), t(nan, 3.0, nan, 3.0), BY)
    assert [isnan(v) for v in found.tolist()] == [True, False, True, False]
    assert found[[1, 3]].tolist() == scores(t(0.4, -0.2), t(3.0, 3.0), BY).tolist()
    assert against(t(nan, -0.2), t(nan, 3.0), BY).tolist() == [False, True]
    assert all(isnan(v) for v in scores(t(nan, nan), t(nan, nan), BY).tolist())


def test_rows_that_do_not_push_do_not_hide_one_that_does() -> None:
    found = scores(t(0.0, 0.0, 0.0, 2.0), t(1.0, 1.0, 1.0, -3.0), BY)
    assert found.tolist() == pytest.approx([0, 0, 0, tanh(1) / 2])
    assert not bool(scores(t(0.0, 0.0), t(1.0, -4.0), BY).any())
    empty = torch.zeros(0, dtype=torch.float64)
    assert scores(empty, empty, BY).numel() == 0


def test_it_sees_push_prediction_and_reading_alone() -> None:
    assert list(inspect.signature(scores).parameters) == ["push", "prediction", "by", "reading"]
    assert list(inspect.signature(ruler).parameters) == ["prediction", "harmful"], "of the fit prompts, not of rows"


@settings(max_examples=60, deadline=None)
@given(PUSHES, st.integers(0, 10**6), st.floats(0.01, 100))
def test_laws(values: list[float], seed: int, by: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    push, prediction = t(*values), 3 * torch.randn(len(values), generator=generator, dtype=torch.float64)
    found = scores(push, prediction, BY)
    close = {"rtol": 1e-9, "atol": 1e-12}
    order = torch.randperm(len(values), generator=generator)
    assert torch.allclose(scores(push[order], prediction[order], BY), found[order], **close), "order"
    assert torch.allclose(scores(by * push, prediction, BY), found, **close), "the size of the whole step"
    assert torch.allclose(scores(-push, prediction, BY), -found, **close)
    mirrored = 2 * BY.centre - prediction
    assert torch.allclose(scores(push, mirrored, BY), -found, **close)
    units = Ruler(by * BY.centre + 3, by * BY.spread)
    assert torch.allclose(scores(push, by * prediction + 3, units), found, **close), "units of the prediction"
    assert torch.equal(found > 0, against(push, prediction, BY))
    if bool(push.any()):
        assert bool((found.abs() <= push.abs() / push[push != 0].abs().mean() / 2 + 1e-12).all())
    reading = torch.randn(len(values), generator=generator, dtype=torch.float64)
    both = scores(push, prediction, BY, reading)
    assert torch.allclose(both - found, -BY.expected(prediction) * reading, **close), "two witnesses add up"


def test_ruler_lies_midway_between_the_two_sorts() -> None:
    prediction = t(4.0, 6.0, -3.0, -1.0, -2.0)
    harmful = torch.tensor([True, True, False, False, False])
    found = ruler(prediction, harmful)
    assert found == Ruler(centre=1.5, spread=3.5)
    assert found.expected(t(1.5, 5.0, -2.0)).tolist() == pytest.approx([0, tanh(1), -tanh(1)])


@pytest.mark.parametrize("all_harmful", [True, False])
def test_ruler_of_one_sort_alone(all_harmful: bool) -> None:
    prediction = t(1.0, 3.0, 5.0)
    found = ruler(prediction, torch.full((3,), all_harmful))
    assert found.centre == pytest.approx(3.0)
    assert found.spread == pytest.approx((8 / 3) ** 0.5)


def test_a_policy_without_opinion_still_has_a_ruler() -> None:
    for harmful in ([True, False], [True, True]):
        found = ruler(t(2.0, 2.0), torch.tensor(harmful))
        assert found.spread > 0
        assert bool(found.expected(t(2.0, 3.0)).isfinite().all())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=2, max_size=8))
def test_opinions_lie_between_answer_and_refuse(rows: list[tuple[float, bool]]) -> None:
    prediction, harmful = t(*(p for p, _ in rows)), torch.tensor([h for _, h in rows])
    assume(float(prediction.std()) > 1e-3)
    found = ruler(prediction, harmful)
    opinion = found.expected(prediction)
    assert bool((opinion.abs() <= 1).all())
    order = prediction.argsort()
    assert bool((opinion[order].diff() >= 0).all()), "higher prediction, more refusal"
