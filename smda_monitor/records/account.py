"""The account of one optimizer step, or of the steps between two snapshots: the ledger's entries.

For every target τ:  measured(τ) = Σ_i share_i(τ) + history(τ) + decay(τ) + unexplained(τ), and history is handed on to
the earlier rows whose gradients were kept: history(τ) = Σ_r past_r(τ) + what stays unnamed.
Target names: ``S_X``, ``S_Y`` (the symbolic policy's two pathways), ``<reading>.<kind>`` and
``<reading>.<kind>.<category>`` with the readings ``mass``, ``contrast`` (refusal in its two readings) and ``explained``
(the policy's x·w), as means over the measured probes of that kind or category.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .snapshot import DictionaryHealth

READINGS = ("mass", "contrast", "explained")
"""What is read of every probe: refusal's two readings, and the part x·w of it that the symbolic policy explains."""
Method = Literal["split", "replay"]
"""How an account is made, see `StepAccount.method`."""
WatchedBy = Literal["", "backward", "replay"]
"""How watched features' shifts are split among rows, see `StepAccount.watched_by`."""
RowsKept = Literal["float32", "bfloat16"]
"""How rows' gradients wait for their account, see `StepAccount.rows_kept`."""
WARM_UP_STEPS = 12
"""Optimizer steps whose figures are marked low confidence: Adam's first steps are sign-like."""


def is_leading(target: str) -> bool:
    """Whether `target` is a pathway or a mean over a whole kind, not over a category of one."""
    return target.count(".") < 2


@dataclass(frozen=True, slots=True)
class TargetBalance:
    """How one target's measured shift over an account is made up."""

    target: str
    """Name of the target, see the module's docstring."""
    measured: float
    """After minus before, on the measured probes; exact. Units of the target."""
    shares: float
    """Sum of the shares of the account's rows."""
    history: float
    """Momentum: what earlier rows' gradients did in these steps."""
    decay: float
    """Weight decay's part."""
    absolute_shares: float
    """Σ_i |share_i|, the scale against which `unexplained_fraction` is read; ≥ 0."""
    handed: float = 0.0
    """What of `history` is handed on to earlier rows by name: Σ_r past_r."""
    absolute_handed: float = 0.0
    """Σ_r |past_r|; ≥ 0."""

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
    """The row's push on the contrast reading of its own prompt, nats, read at the end of its account; NaN where own
    prompts are not read."""
    own_mass: float
    """The behaviour's log-odds on the row's own prompt at the end of its account; NaN where not read."""
    own_predicted: float
    """The symbolic policy's prediction for the row's own prompt, units of y; NaN where not read."""
    expected: float
    """What the row is expected to do on its own prompt, (−1, 1): 1 show the behaviour (refuse), −1 not; NaN where not
    read. Formula: `smda_monitor.maths.score`."""
    interference: float
    """Σ_{k∉I}|ΔW_k w_k| / Σ_k|ΔW_k w_k| of the row's output-probability pathway, I the features that carry 90 % of
    its own prompt's prediction; in [0, 1], NaN where own prompts are not read."""
    dominant_feature: int
    """Feature id with the largest |ΔW_k w_k| of the row's output-probability pathway; −1 where it moved none."""
    unintended: bool
    """The dominant feature lies outside I, or the push on the own prompt goes against what is expected on it; False
    where own prompts are not read."""
    answer_reading: float
    """What the row's own answer shows, read from its hidden states in the trainer's forward: about +1 the behaviour,
    −1 not; NaN where the policy has no reference answers."""
    score: float
    """Suspicion: higher means the row teaches or moves refusal more strongly against what is expected on its own
    prompt. Formula: `smda_monitor.maths.score`."""
    probe_share: dict[str, tuple[float, ...]]
    """By reading (`READINGS`): the row's share of every measured probe, in the order of the account's ``probe_ids``;
    nats."""
    probe_push: dict[str, tuple[float, ...]]
    """By reading: the row's push on every measured probe."""
    watched: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By id of a watched feature: the row's push on its ΔW_k through feature activation and through output probability,
    units of w. Empty where the account did not split them, and for rows of another step than the account's last."""
    absolute_shift: float = float("nan")
    """Σ_k|ΔW_k w_k| of the row's output-probability pathway, units of y: by it rows are weighted where their
    interference is pooled over a step or a run."""


@dataclass(frozen=True, slots=True)
class PastShare:
    """What momentum made of one earlier row in an account."""

    row_id: str
    """The row, as in its own `RowEntry`."""
    row_hash: str
    """Its content."""
    step: int
    """The step that it was trained on; before or within the account."""
    share: dict[str, float]
    """By leading target (`is_leading`): its part of ``history``."""


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
    """The ledger entry of one optimizer step, or of all steps between two snapshots."""

    step: int
    """The last optimizer step of the account, counted from 1."""
    since: int
    """The step of the snapshot before: the account covers the steps after it up to `step`."""
    warm_up: bool
    """True where it begins within the first `WARM_UP_STEPS` steps: read such figures with care."""
    learning_rate: float
    """Of the first parameter group, at the last step."""
    clip_factor: float
    """Measured ratio of the clipped to the unclipped gradient, in (0, 1]; the smallest of the steps."""
    capture_error: float
    """‖Σ_i g_i·c − gradient the optimizer saw‖ / ‖gradient the optimizer saw‖; about 1e-6 in fp32; the largest of the
    steps."""
    balances: tuple[TargetBalance, ...]
    """One per target."""
    rows: tuple[RowEntry, ...]
    """One per training row and step, in order."""
    past: tuple[PastShare, ...]
    """Earlier rows to whom momentum's part is handed on."""
    probes: dict[str, tuple[float, ...]]
    """``<reading>.measured``, ``.history`` and ``.decay`` of every measured probe, in `probe_ids` order; nats."""
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
    probe_ids: tuple[str, ...] = ()
    """The measured probes, the same at both ends of the account; empty in a ledger that does not name them, where they
    are the manifest's ``measured_probes``. Under a budget of time (``overhead``) they differ between accounts. Every
    account balances on its own probes, and each of its targets is an unbiased estimate for the whole set, probes
    weighted for their strata; so sums over accounts estimate the shift of the whole set. Only where all have the same
    probes are they the difference between the last and the first snapshot of these."""
    watched: tuple[FeatureShift, ...] = ()
    """The watched features: the policy's leading ones, then those that had drifted most when they were last split."""
    watched_by: WatchedBy = ""
    """How their shifts are split among the rows of the last step (`RowEntry.watched`): ``backward``, the gradient of
    each feature's ΔW_k, first order; ``replay``, the probes' features measured without each row's part of the step;
    empty where they are not. Through output probability they follow from the rows' pushes on y in both."""
    outside: bool = False
    """Whether something other than the optimizer's steps moved the trained parameters between its two snapshots. What
    that did is in the measured shifts. Of a split step it is in no row's figures, but unexplained; by replay it is in
    every row's push."""
    rows_kept: RowsKept = "float32"
    """How the rows' gradients were kept, of which shares and pushes are read: in bfloat16, 8 significant bits an
    element, where those of the steps that wait for their account would have taken over an eighth of ``memory_gib``."""

    def balance(self, target: str) -> TargetBalance:
        """The balance of `target`. Raises `KeyError` for an unknown name."""
        for balance in self.balances:
            if balance.target == target:
                return balance
        raise KeyError(target)
