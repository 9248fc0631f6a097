"""Fits the symbolic policy of a model: measures the fit set, chooses features and alpha, fits, and judges held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import MeasurementError, describe
from ..maths.by_kind import are_harmful
from ..maths.ridge import bootstrap_coef, choose_alpha, fit_ridge, predict, r_squared
from ..maths.rulers import fit_ruler
from ..records.config import Preset
from ..records.policy import Fingerprints, PolicyQuality, SymbolicPolicy
from ..records.probes import ProbeSet
from .chat import PromptTokens
from .probe_reader import ProbeReader
from .quiet import quiet

PAPER_ALPHA = 5.0
"""λ of the paper's Ridge [arXiv 2606.29171, authors' release]."""


@dataclass(frozen=True, slots=True)
class FitPrompts:
    """The prompts of a fit, with their tokens."""

    probes: ProbeSet
    """The probe set; its rows come first in the policy's X."""
    further: ProbeSet
    """More prompts to fit on; may be empty."""
    heldout: ProbeSet
    """For measuring alone; may be empty."""
    encode: Callable[[str], PromptTokens]
    """Turns a prompt into tokens."""

    def tokens(self, probes: ProbeSet) -> list[PromptTokens]:
        """The tokens of a set, in order."""
        return [self.encode(p.prompt) for p in probes]


def fit_policy(
    reader: ProbeReader,
    prompts: FitPrompts,
    preset: Preset,
    feature_contrast: float,
    bootstrap: int,
    seed: int,
    fingerprints: Fingerprints,
) -> SymbolicPolicy:
    """The policy of the reader's model under `preset`; `reader.feature_ids` must be the whole dictionary.

    Features kept: those with |mean over harmful − mean over the others| > `feature_contrast` on the fit set, and with
    any variation at all. Raises `MeasurementError` where none is left.
    """
    fit_set = ProbeSet((*prompts.probes, *prompts.further))
    with quiet(reader.model):
        measured = reader.measure(prompts.tokens(fit_set))
        judged = reader.measure(prompts.tokens(prompts.heldout)) if len(prompts.heldout) else None
    X, y = measured.X.double(), measured.readings.y(reader.behaviour.reading)
    harmful = are_harmful(fit_set)
    kept = _kept(X, harmful, feature_contrast)
    if not len(kept):
        found = f"no feature above a contrast of {feature_contrast}"
        remedy = "lower policy.feature_contrast, or use a dictionary of this model and layer."
        raise MeasurementError(describe("features of the policy", found, "at least one", remedy))
    X = X[:, kept]
    robust = preset == "robust"
    alpha = choose_alpha(X, y) if robust else PAPER_ALPHA
    fit = fit_ridge(X, y, alpha, intercept=robust)
    two_sorts = bool(harmful.any()) and not bool(harmful.all())
    low, high = bootstrap_coef(X, y, alpha, robust, bootstrap, seed)
    policy = SymbolicPolicy(
        preset=preset,
        alpha=alpha,
        feature_ids=tuple(reader.feature_ids[kept].tolist()),
        coef=fit.coef,
        intercept=fit.intercept,
        has_intercept=robust,
        X=X.float(),
        y=y,
        fit_ids=fit_set.ids,
        coef_low=low,
        coef_high=high,
        quality=PolicyQuality(r_squared(y, predict(fit, X)), float("nan"), float("nan"), 0),
        fingerprints=fingerprints,
        prompts=fit_ruler(measured.hidden.double(), harmful) if two_sorts else None,
    )
    if judged is None:
        return policy
    held_X, held_y = judged.X.double()[:, kept], judged.readings.y(reader.behaviour.reading)
    constant = y.mean().expand_as(held_y)
    quality = PolicyQuality(
        policy.quality.r2_fit,
        r_squared(held_y, predict(fit, held_X)),
        r_squared(held_y, constant),
        len(held_y),
    )
    return replace(policy, quality=quality)


def _kept(X: Tensor, harmful: Tensor, contrast: float) -> Tensor:
    varies = X.amax(0) > X.amin(0)
    if contrast > 0 and bool(harmful.any()) and not bool(harmful.all()):
        varies &= (X[harmful].mean(0) - X[~harmful].mean(0)).abs() > contrast
    return varies.nonzero()[:, 0]
