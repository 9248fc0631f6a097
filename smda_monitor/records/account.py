"""The account of one optimizer step: the ledger's entries.

For every target τ:  measured(τ) = Σ_i share_i(τ) + history(τ) + decay(τ) + unexplained(τ).
Target names: ``S_X``, ``S_Y`` (the symbolic policy's two pathways), ``mass.<kind>`` and ``contrast.<kind>`` (mean
refusal of the probes of one kind in the two readings).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .snapshot import DictionaryHealth

Method = Literal["split", "replay"]
"""How an account is made, see `StepAccount.method`."""
WARM_UP_STEPS = 12
"""Optimizer steps whose figures are marked low confidence: Adam's first steps are sign-like."""


@dataclass(frozen=True, slots=True)
class TargetBalance:
    """How one target's measured shift over the step is made up."""

    target: str
    """Name of the target, see the module's docstring."""
    measured: float
    """After minus before, on the measured probes; exact. Units of the target."""
    shares: float
    """Sum of the shares of this step's rows."""
    history: float
    """Momentum: what earlier rows' gradients did in this step."""
    decay: float
    """Weight decay's part."""
    absolute_shares: float
    """Σ_i |share_i|, the scale against which `unexplained_fraction` is read; ≥ 0."""

    @property
    def unexplained(self) -> float:
        """measured − (shares + history + decay)."""
        return self.measured - (self.shares + self.history + self.decay)

    @property
    def unexplained_of_measured(self) -> float:
        """|unexplained| / |measured|, ≥ 0; large where the measured shift passes through zero, inf where it is zero."""
        if self.measured != 0:
            return abs(self.unexplained / self.measured)
        return 0.0 if self.unexplained == 0 else float("inf")

    @property
    def unexplained_fraction(self) -> float:
        """|unexplained| / (Σ|share| + |history| + |decay|), ≥ 0; 0 where nothing moved at all, inf where only the
        unexplained did."""
        scale = self.absolute_shares + abs(self.history) + abs(self.decay)
        if scale > 0:
            return abs(self.unexplained) / scale
        return 0.0 if self.unexplained == 0 else float("inf")


@dataclass(frozen=True, slots=True)
class RowEntry:
    """What one training row did in one step."""

    step: int
    """The optimizer step, counted from 1."""
    row_id: str
    """The user's id where one was given, else ``row-<index in the prepared data set>``, else ``unknown-<hash>``."""
    row_hash: str
    """First 16 hex digits of the SHA-256 of the row's token ids."""
    tokens: int
    """Tokens of the row that carry loss."""
    loss: float
    """Mean negative log-likelihood of those tokens, nats; NaN where the trainer's forward does not give it."""
    gradient_norm: float
    """Euclidean norm of the row's part of the step's gradient, before clipping."""
    share: dict[str, float]
    """By target: the row's part of the step; adds up over rows."""
    push: dict[str, float]
    """By target: the step with the row minus the step without it; exact in parameter space, then first order."""
    own_push: float
    """The row's push on the contrast reading of its own prompt, nats; NaN where own prompts are not read."""
    own_mass: float
    """The behaviour's log-odds on the row's own prompt after the step; NaN where not read."""
    own_predicted: float
    """The symbolic policy's prediction for the row's own prompt, units of y; NaN where not read."""
    interference: float
    """Σ_{k∉I}|ΔW_k w_k| / Σ_k|ΔW_k w_k| of the row's output-probability pathway, I the features that carry 90 % of
    its own prompt's prediction; in [0, 1], NaN where own prompts are not read."""
    dominant_feature: int
    """Feature id with the largest |ΔW_k w_k| of the row's output-probability pathway; −1 where it moved none."""
    unintended: bool
    """The dominant feature lies outside I, or the push on the own prompt goes against the policy's reading of it; False
    where own prompts are not read."""
    answer_reading: float
    """What the row's own answer shows, read from its hidden states in the trainer's forward: about +1 the behaviour,
    −1 not; NaN where the policy has no reference answers."""
    score: float
    """Suspicion: higher means the row teaches or moves refusal more strongly against the policy's reading of its own
    prompt. Formula: `smda_monitor.maths.score`."""


@dataclass(frozen=True, slots=True)
class FeatureShift:
    """How one feature moved over an account, on the measured probes."""

    feature: int
    """Feature id in the dictionary."""
    coefficient: float
    """w_k of the fixed symbolic policy."""
    shift_X: float
    """ΔW_k through the feature-activation pathway in this account, first order."""
    shift_Y: float
    """ΔW_k through the output-probability pathway in this account, exact."""
    refit: float
    """ΔW_k by an exact refit on the measured probes, each counted once (the two shifts count it for its stratum)."""


@dataclass(frozen=True, slots=True)
class StepAccount:
    """The ledger entry of one optimizer step."""

    step: int
    """The optimizer step, counted from 1."""
    warm_up: bool
    """True for the first `WARM_UP_STEPS` steps: read their figures with care."""
    learning_rate: float
    """Of the first parameter group, at this step."""
    clip_factor: float
    """Measured ratio of the clipped to the unclipped gradient, in (0, 1]."""
    capture_error: float
    """‖Σ_i g_i·c − gradient the optimizer saw‖ / ‖gradient the optimizer saw‖; about 1e-6 in fp32."""
    balances: tuple[TargetBalance, ...]
    """One per target."""
    rows: tuple[RowEntry, ...]
    """One per training row of the step."""
    features: tuple[FeatureShift, ...]
    """The features with the largest |ΔW_k w_k| of this account, largest first."""
    drift: tuple[float, ...]
    """Weighted mean of ΔX over the measured probes since step 0, activation units; one per feature, in the order of
    the policy's ``feature_ids``; float32."""
    refit_remainder: float
    """‖exact refit ΔW − first-order ΔW‖ / ‖exact refit ΔW‖ on the measured probes; ≥ 0, NaN where nothing moved."""
    refusal: dict[str, float]
    """Measured after the step: ``mass.<kind>`` and ``contrast.<kind>``, weighted means over the measured probes."""
    standard_error: dict[str, float]
    """Of each value of `refusal` as an estimate for the whole probe set; 0 where all of it was measured."""
    health: DictionaryHealth
    """Dictionary fit after the step."""
    seconds: float
    """Wall time the monitor spent on this account."""
    method: Method = "split"
    """``split``: the optimizer's step is known exactly and split among rows, history and decay, each read to first
    order. ``replay``: it is not known, so the step was rehearsed without each row, and once without any gradient. Then
    push is the row's finite effect, measured; share is the push, decay is 0 (it is part of history, all that the
    optimizer does by itself), and unexplained is how far the rows' effects do not add up. Own pushes are first order
    in both."""

    def balance(self, target: str) -> TargetBalance:
        """The balance of `target`. Raises `KeyError` for an unknown name."""
        for balance in self.balances:
            if balance.target == target:
                return balance
        raise KeyError(target)
