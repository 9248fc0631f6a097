"""What a run is meant to do, and what is alerted: the sections ``alerts`` and ``alerts.intent``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .alert import AlertKind
from .section import Section

DriftIntent = Literal["up", "down", "still", "any"]


class IntentConfig(Section):
    """Where the behaviour's log-odds are meant to go, by kind of probe: the other way is a drift. What is left out goes
    up on the kinds on which the behaviour is wanted (``behaviour.wanted_on``), down on the others."""

    harmful: DriftIntent | None = None
    """``up``, ``down``, ``still`` (neither way) or ``any``; so for all three."""
    lookalike: DriftIntent | None = None
    """Benign look-alikes of harmful probes."""
    benign: DriftIntent | None = None
    """Plainly benign probes."""
    features: DriftIntent = "still"
    """What the policy reads, on all probes, through features that it does not rest on at the start, together."""
    categories: dict[str, DriftIntent] = Field(default_factory=dict)
    """Of single categories, as ``<kind>.<category>``; the others are meant to go as their kind."""
    single_features: dict[int, DriftIntent] = Field(default_factory=dict)
    """Of single features by id: what the policy reads through each. Each is judged by itself; one that is not meant to
    stay ``still`` is left out of `features`."""


class AlertsConfig(Section):
    """What is alerted: drift by a test, rows at a false-discovery rate, accounts and the self-audit by limits."""

    false_alarm: Annotated[float, Field(gt=0, lt=1)] | None = 0.01
    """Bound on the chance of any drift alert in a whole run that stays within `tolerance`; None: no such alert."""
    tolerance: Annotated[float, Field(gt=0)] = 0.5
    """Mean drift of the log-odds over prompts of a kind since the start that nobody minds, nats."""
    intent: IntentConfig = IntentConfig()
    """Where the behaviour is meant to go."""
    drift_by: Literal["any", "outstanding"] = "any"
    """Which drift is alerted: ``any``, or only one that rows which stand out themselves (`row_rate`) are behind, with a
    third or more of what the rows that the alert names pushed: rows that are as intended move a behaviour, too."""
    row_rate: Annotated[float, Field(gt=0, lt=1)] | None = 0.1
    """Alert on rows after warm-up whose score stands out of their bulk, at this false-discovery rate; None: never."""
    row_tolerance: Annotated[float, Field(ge=0)] = 0.25
    """Score that nobody minds: up to it no row is alerted, however far it stands out of a bulk that hardly varies. An
    answer that goes all the way against what its prompt calls for scores about 1."""
    unexplained: Annotated[float, Field(gt=0)] | None = 0.25
    """Alert when a policy pathway's unexplained fraction exceeds this after warm-up; None: never."""
    stop: tuple[AlertKind, ...] = ()
    """Kinds of alert at which training stops, with a checkpoint: ``drift``, ``rows``, ``account``."""
    audit: Annotated[float, Field(gt=0)] | None = 0.25
    """Alert when pushes miss their replays by more than this, median relative error after warm-up; name no rows of a
    step that does. None: never."""

    @model_validator(mode="after")
    def _rows_stand_out(self) -> AlertsConfig:
        if self.drift_by == "outstanding" and self.row_rate is None:
            raise ValueError("drift_by: outstanding needs alerts on rows that stand out: set row_rate, e.g. 0.1")
        return self
