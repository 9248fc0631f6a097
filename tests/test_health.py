"""Dictionary health against scikit-learn, numpy loops and a constructed truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smda_monitor.errors import MeasurementError
from smda_monitor.maths.health import dictionary_health


def test_constructed_truth() -> None:
    hidden = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # variance about the mean: 2
    reconstruction = torch.tensor([[0.5, 0.0], [-1.0, 0.5]])  # squared error: 0.5
    active = torch.tensor([[True, False, True, False], [True, False, False, False]])
    health = dictionary_health(hidden, reconstruction, active)
    assert (health.fvu, health.l0, health.dead) == (0.25, 1.5, 0.5)


@settings(deadline=None)
@given(st.integers(2, 20), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_equals_independent_reference(n: int, d_in: int, d_sae: int, seed: int) -> None:
    from sklearn.metrics import r2_score

    generator = np.random.default_rng(seed)
    hidden = generator.normal(3.0, 1.0, (n, d_in))
    reconstruction = hidden + generator.normal(0.0, 0.3, (n, d_in))
    active = generator.random((n, d_sae)) < 0.4
    health = dictionary_health(*(torch.from_numpy(a) for a in (hidden, reconstruction, active)))
    r2 = r2_score(hidden, reconstruction, multioutput="variance_weighted")
    assert health.fvu == pytest.approx(1 - r2, rel=1e-9)
    assert health.l0 == pytest.approx(np.mean([sum(row) for row in active]))
    assert health.dead == pytest.approx(np.mean([not any(active[:, k]) for k in range(d_sae)]))


def test_ends_of_the_range() -> None:
    hidden = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(7, 4, dtype=torch.bool)
    perfect = dictionary_health(hidden, hidden, ~nothing)
    assert (perfect.fvu, perfect.l0, perfect.dead) == (0.0, 4.0, 0.0)
    mean = dictionary_health(hidden, hidden.mean(dim=0).expand_as(hidden), nothing)
    assert mean.fvu == pytest.approx(1.0, rel=1e-6)
    assert (mean.l0, mean.dead) == (0.0, 1.0)


def test_half_precision_is_summed_in_float64() -> None:
    # 300² summed 4,096 times overflows float16 (65,504) by far.
    hidden = torch.tensor([300.0, -300.0], dtype=torch.float16).repeat(2048)[:, None]
    assert dictionary_health(hidden, hidden / 2, torch.ones(4096, 1, dtype=torch.bool)).fvu == pytest.approx(0.25)


@pytest.mark.parametrize("which", ["residual stream", "reconstruction"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_figures_that_are_not_finite(which: str, bad: float) -> None:
    hidden, reconstruction = torch.randn(4, 3), torch.randn(4, 3)
    (hidden if which == "residual stream" else reconstruction)[2, 1] = bad
    with pytest.raises(MeasurementError, match=rf"{which}.*1 of 4 probes"):
        dictionary_health(hidden, reconstruction, torch.ones(4, 2, dtype=torch.bool))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_no_variance_between_probes(n: int) -> None:
    hidden = torch.ones(n, 3)
    with pytest.raises(MeasurementError, match=f"{n} probes with no variance"):
        dictionary_health(hidden, hidden, torch.ones(n, 2, dtype=torch.bool))
