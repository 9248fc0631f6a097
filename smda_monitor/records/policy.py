"""The symbolic policy: a Ridge regression of the behaviour on features, fitted once before training and then fixed."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What a policy is bound to. A policy is refused where one of them differs."""

    model: str
    """Of the weights the policy was measured on."""
    dictionary: str
    """Of the dictionary's weights, hookpoint, gate and read position."""
    behaviour: str
    """Of the openings (token ids) and the reading."""
    probes: str
    """Of the probe set."""


@dataclass(frozen=True, slots=True)
class PolicyQuality:
    """How far to trust the policy."""

    r2_fit: float
    """R² on the fit set."""
    r2_heldout: float
    """R² on held-out prompts; NaN where none were given. 1 is perfect; a constant has 0 or less."""
    r2_constant: float
    """R² on the held-out prompts of predicting the fit set's mean: the baseline beside it."""
    n_heldout: int
    """Number of held-out prompts."""


@dataclass(frozen=True, slots=True)
class Ruler:
    """Reads one of two sorts from a vector h, a residual stream at the policy's hookpoint: h·direction + offset."""

    direction: Tensor
    """(d_in,) per activation unit; float64."""
    offset: float
    """Added, so that examples of one sort lie around +1 and those of the other around −1."""


@dataclass(frozen=True, slots=True)
class SymbolicPolicy:
    """min_w ‖y − Xw − b‖² + alpha‖w‖², with the data it was fitted on (needed for every policy shift)."""

    preset: str
    """``robust`` (intercept, alpha by cross-validation, log-odds, continuous gate) or ``paper`` (alpha 5, no intercept,
    log-probability, ReLU proxy, last user token)."""
    alpha: float
    """The Ridge penalty λ; > 0."""
    feature_ids: tuple[int, ...]
    """d dictionary features, the one explicit order of all columns."""
    coef: Tensor
    """(d,) w; float64."""
    intercept: float
    """b; exactly 0 where the preset has none."""
    has_intercept: bool
    """Whether X and y are centred over the fit set."""
    X: Tensor
    """(n, d) features of the fit set at fit time, uncentred; float32. Its first rows are the probe set."""
    y: Tensor
    """(n,) behaviour of the fit set at fit time; float64."""
    fit_ids: tuple[str, ...]
    """n prompt ids, the rows of X; the probe set's ids come first, in its order."""
    coef_low: Tensor
    """(d,) 2.5 % bootstrap quantile of each coefficient over resampled fit prompts."""
    coef_high: Tensor
    """(d,) 97.5 % quantile."""
    quality: PolicyQuality
    """Held-out fidelity beside the constant baseline."""
    fingerprints: Fingerprints
    """What the policy is bound to."""
    answers: Ruler | None = None
    """Whether an answer shows the behaviour, in any wording, from the mean over its first tokens; None where the
    behaviour has no reference answers."""
    asked: Ruler | None = None
    """Whether an answer's prompt calls for the behaviour, from the same mean; None where reference answers do not go
    both ways, with their prompts and against them, and where others do not call for what is wrong on harmful ones."""
    prompts: Ruler | None = None
    """Whether a prompt is one to refuse, at the read position, from the kinds of the fit set; None where all are of one
    sort: then the policy's own prediction stands for it."""
    notes: dict[str, str] = field(default_factory=dict)
    """Free text saved along: versions, recipe, date."""
