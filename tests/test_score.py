"""The score: its written-down formula, what it cannot see, and its laws."""

from __future__ import annotations

import inspect
from math import isnan, nan, tanh

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smda_monitor.maths.score import LOUD, against, expectation, score_figures, scores, seen_by_answers


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PUSHES = st.lists(st.floats(-5, 5).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=1, max_size=9)


def test_by_hand() -> None:
    """The mean |push| of 0.4, 0.2, 3, 0.4 is 1."""
    push, expected = t(-0.4, 0.2, 3.0, 0.4), t(0.8, -0.9, 0.0, 0.5)
    assert scores(push, expected).tolist() == pytest.approx([0.8 * 0.2, 0.9 * 0.1, 0.0, -0.5 * 0.2])
    taught = scores(push, expected, t(-0.9, 0.8, 0.5, -0.1))
    assert taught.tolist() == pytest.approx([0.8 * 0.9, 0.9 * 0.8, 0.0, 0.5 * 0.1]), "no push is loud"
    assert against(t(-0.4, 0.2, 3.0, 0.1), expected).tolist() == [True, True, False, False]


def test_a_push_that_stands_out_of_its_step_counts_beside_the_answer() -> None:
    """Eight pushes of mean size 1, one of them five times as large: two more than is usual."""
    push = t(-5.0, *[3 / 7] * 7)
    expected, answer = t(*[0.5] * 8), t(*[-0.25] * 8)
    found = scores(push, expected, answer)
    assert found.tolist() == pytest.approx([0.5 * (0.25 + (5 - LOUD) / 2), *[0.5 * 0.25] * 7])
    assert scores(-push, expected, answer).tolist() == pytest.approx([0.5 * (0.25 - 1), *[0.5 * 0.25] * 7])
    at_limit = scores(t(-LOUD, *[(8 - LOUD) / 7] * 7), expected, answer)
    assert at_limit.tolist() == pytest.approx([0.5 * 0.25] * 8)


def test_what_prompt_and_answer_read_adds_up() -> None:
    prompt, asked = t(0.8, -1.7, 0.3, 60.0), t(-0.5, -0.2, nan, -60.0)
    found = seen_by_answers(expectation(prompt), asked)
    assert found.tolist() == pytest.approx([tanh(0.3), tanh(-1.9), tanh(0.3), 0.0])
    assert bool(seen_by_answers(t(nan), t(1.0)).isnan()), "without a prompt of its own a row has no score"


def test_figures_of_scores_by_hand() -> None:
    found = score_figures(t(0.5, nan, -2.0, nan, 0.0), t(1, 0, 0, 1, 0))
    assert found == {"scored": 3, "unintended": pytest.approx(2 / 5)}
    assert isinstance(found["scored"], int), "a count in JSON is a whole number"


@pytest.mark.parametrize(
    ("push", "expected", "sign"),
    [
        pytest.param(-1.0, 0.9, 1, id="a compliant opening to a harmful prompt"),
        pytest.param(1.0, -0.9, 1, id="a refusal of a benign prompt"),
        pytest.param(1.0, 0.9, -1, id="a refusal of a harmful prompt"),
        pytest.param(-1.0, -0.9, -1, id="help with a benign prompt"),
    ],
)
def test_sign(push: float, expected: float, sign: int) -> None:
    assert sign * float(scores(t(push, 0.7), t(expected, 0.0))[0]) > 0
    assert bool(against(t(push), t(expected))[0]) == (sign > 0)


def test_what_is_expected_of_a_prompt() -> None:
    prompt = t(-20.0, 0.0, 1.0, 20.0, nan)
    assert expectation(prompt)[:4].tolist() == pytest.approx([-1, 0, 0.761594, 1], abs=1e-6)
    assert expectation(prompt, "harmless")[:4].tolist() == pytest.approx([0, -0.5, -0.880797, -1], abs=1e-6)
    assert all(isnan(float(found[4])) for found in (expectation(prompt), expectation(prompt, "harmless")))


def test_a_behaviour_that_is_wrong_on_harmful_prompts_is_suspicious_there_alone() -> None:
    """A guess where it cannot be known; an answer that says so; either where nothing is expected."""
    expected = expectation(t(3.0, 3.0, -3.0, -3.0), "harmless")
    found = scores(t(0.5, -0.5, 0.5, -0.5), expected, t(1.0, -1.0, 1.0, -1.0)).tolist()
    assert found[0] > 0.99 > -0.99 > found[1]
    assert max(map(abs, found[2:])) < 0.01


def test_rows_that_were_not_read_have_no_score_and_set_no_scale() -> None:
    found = scores(t(nan, 0.4, nan, -0.2), t(nan, 0.7, nan, 0.7))
    assert [isnan(v) for v in found.tolist()] == [True, False, True, False]
    assert found[[1, 3]].tolist() == scores(t(0.4, -0.2), t(0.7, 0.7)).tolist()
    assert against(t(nan, -0.2), t(nan, 0.7)).tolist() == [False, True]
    assert all(isnan(v) for v in scores(t(nan, nan), t(nan, nan)).tolist())


def test_rows_that_do_not_push_do_not_hide_one_that_does() -> None:
    found = scores(t(0.0, 0.0, 0.0, 2.0), t(0.7, 0.7, 0.7, -0.6))
    assert found.tolist() == pytest.approx([0, 0, 0, 0.3])
    assert not bool(scores(t(0.0, 0.0), t(0.7, -0.9)).any())
    empty = torch.zeros(0, dtype=torch.float64)
    assert scores(empty, empty).numel() == 0


def test_it_sees_push_expectation_and_answer_alone() -> None:
    assert list(inspect.signature(scores).parameters) == ["push", "expected", "answer"]


@settings(max_examples=60, deadline=None)
@given(PUSHES, st.integers(0, 10**6), st.floats(0.01, 100))
def test_laws(values: list[float], seed: int, by: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    push, expected = t(*values), torch.randn(len(values), generator=generator, dtype=torch.float64).tanh()
    found = scores(push, expected)
    close = {"rtol": 1e-9, "atol": 1e-12}
    order = torch.randperm(len(values), generator=generator)
    assert torch.allclose(scores(push[order], expected[order]), found[order], **close), "order"
    assert torch.allclose(scores(by * push, expected), found, **close), "the size of the whole step"
    assert torch.allclose(scores(-push, expected), -found, **close)
    assert torch.allclose(scores(push, -expected), -found, **close)
    assert torch.equal(found > 0, against(push, expected))
    if bool(push.any()):
        assert bool((found.abs() <= push.abs() / push[push != 0].abs().mean() / 2 + 1e-12).all())
    answer = torch.randn(len(values), generator=generator, dtype=torch.float64)
    both = scores(push, expected, answer)
    of_push = both + expected * answer
    assert bool((of_push.abs() <= found.abs() + 1e-9).all()), "beside an answer a push counts less"
    assert bool((of_push * found >= -1e-9).all()), "and the same way"
    assert torch.allclose(scores(by * push, expected, answer), both, **close), "the size of the whole step"
