"""Policies with given coefficients, for tests that need no fit."""

from __future__ import annotations

import torch
from torch import Tensor

from smda_monitor.records.policy import Fingerprints, PolicyQuality, SymbolicPolicy


def made_policy(coef: Tensor, intercept: float = 0.0, X: Tensor | None = None) -> SymbolicPolicy:
    """A policy that predicts X·coef + intercept; column k is feature 10·k + 3. Its y is not what it was fitted on."""
    d = len(coef)
    X = torch.zeros(2, d) if X is None else X
    return SymbolicPolicy(
        preset="robust",
        alpha=1.0,
        feature_ids=tuple(10 * k + 3 for k in range(d)),
        coef=coef,
        intercept=intercept,
        has_intercept=True,
        X=X,
        y=torch.zeros(len(X), dtype=torch.float64),
        fit_ids=tuple(f"fit-{i}" for i in range(len(X))),
        coef_low=coef - 0.1,
        coef_high=coef + 0.2,
        quality=PolicyQuality(1.0, float("nan"), float("nan"), 0),
        fingerprints=Fingerprints("m", "d", "b", "p"),
    )
