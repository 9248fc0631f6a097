"""Planted rows against their controls: by hand, against counting pairs, and what is left out."""

from __future__ import annotations

from math import nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smda_monitor.maths.controls import auroc_controls, auroc_controls_by_kind
from smda_monitor.records.training_row import PlantedRow


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PLANTED = [PlantedRow(0, 1, "a", None), PlantedRow(2, 3, "a", "x"), PlantedRow(4, 5, "b", "y")]


def test_by_hand() -> None:
    """Planted 3, 1, 5 against controls 2, 0, 1: of nine pairs seven are right and one is even."""
    scores = t(3, 2, 1, 0, 5, 1, 99)
    assert auroc_controls(scores, PLANTED) == pytest.approx(7.5 / 9)
    assert auroc_controls_by_kind(scores, PLANTED) == {"a": pytest.approx(3 / 4), "b": 1.0}


def test_rows_without_a_score_or_a_control_are_left_out_with_their_partners() -> None:
    scores = t(3, nan, 1, 0, 5, 9)
    lost = [*PLANTED[:2], PlantedRow(4, -1, "b", None)]
    assert auroc_controls(scores, lost) == 1.0, "one pair is left: 1 against 0"
    assert auroc_controls_by_kind(scores, lost)["b"] is None
    assert auroc_controls(scores, []) is None
    assert auroc_controls_by_kind(scores, []) == {}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=8))
def test_it_counts_pairs(values: list[tuple[int, int]]) -> None:
    planted = [PlantedRow(2 * i, 2 * i + 1, "a", None) for i in range(len(values))]
    found = auroc_controls(t(*(v for pair in values for v in pair)), planted)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, _ in values for _, b in values]
    assert found == pytest.approx(sum(wins) / len(wins))
