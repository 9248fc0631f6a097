"""The order of coefficients against numpy, on a constructed truth, and that it is the order of the watched features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_policies import made_policy

from smda_monitor.maths.coefficients import ranked_coefficients
from smda_monitor.maths.watched import leading_features


def test_a_large_coefficient_of_a_feature_that_never_varies_comes_last() -> None:
    X = torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, 1.0]])
    coef = torch.tensor([-0.5, 9.0, 0.4], dtype=torch.float64)
    ranked = ranked_coefficients(made_policy(coef, X=X))
    assert [(c.feature, c.coef, c.spread, c.effect) for c in ranked] == [
        (3, -0.5, 1.0, 0.5),
        (23, 0.4, 0.5, 0.2),
        (13, 9.0, 0.0, 0.0),
    ]
    assert [(c.low, c.high) for c in ranked] == [pytest.approx((c.coef - 0.1, c.coef + 0.2)) for c in ranked]


def test_all_are_there_in_the_order_of_numpy_and_of_the_watched_features() -> None:
    g = torch.Generator().manual_seed(0)
    X, coef = torch.rand(40, 25, generator=g), torch.randn(25, generator=g, dtype=torch.float64)
    policy = made_policy(coef, X=X)
    ranked = ranked_coefficients(policy)
    effect = np.abs(coef.numpy()) * X.double().numpy().std(axis=0)
    assert [c.effect for c in ranked] == pytest.approx(sorted(effect, reverse=True))
    assert [c.feature for c in ranked] == [policy.feature_ids[k] for k in leading_features(policy, 25)]
    assert [c.feature for c in ranked] != list(policy.feature_ids)
