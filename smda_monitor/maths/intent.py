"""What a run is meant to do to a behaviour, and so in which directions it is not to drift.

Declared by kind of probe, by category of a kind, for the policy's reading through all features that it does not rest
on together, and by single features. What is not declared: up on kinds on which the behaviour is wanted, down on the
others, a category as its kind, features still. Of a row, too, nothing has to be declared: it is meant to do what its
own prompt calls for (`score`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError, describe
from ..records.alerts_config import AlertsConfig, DriftIntent, IntentConfig
from ..records.config import WantedOn
from ..records.probes import KINDS, ProbeSet

FEATURES = "features"
"""What else may drift, beside the behaviour on the kinds: the policy's reading through unintended features together."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One way in which the behaviour, or what the policy reads, is not to drift."""

    of: str
    """On probes of this kind, of ``<kind>.<category>``, `FEATURES`, or one feature, ``features.<id>``."""
    sign: float
    """1 up, −1 down."""


def categories(probes: ProbeSet) -> list[str]:
    """Those that are not all of their kind, as ``<kind>.<category>``."""
    by_kind = {kind: dict.fromkeys(p.category for p in probes if p.kind == kind) for kind in KINDS}
    return [f"{kind}.{one}" for kind, found in by_kind.items() if len(found) > 1 for one in found]


def intents(
    asked: IntentConfig, wanted_on: WantedOn, probes: ProbeSet, feature_ids: Sequence[int]
) -> dict[str, DriftIntent]:
    """What is meant of each kind, of `FEATURES`, and of the categories and features that are `asked` for by
    `Direction.of`.

    Raises `ConfigError` for a category that no part of a kind has, or a feature that the policy does not read.
    """
    known = categories(probes)
    if unknown := sorted(set(asked.categories) - set(known)):
        expected = f"categories of kinds that have several: {', '.join(known) or 'none here'}"
        raise ConfigError(describe("alerts.intent.categories", ", ".join(unknown), expected, "correct or leave out"))
    if unread := sorted(set(asked.single_features) - set(feature_ids)):
        expected = f"ids among the {len(feature_ids)} that the policy reads"
        found = ", ".join(map(str, unread))
        raise ConfigError(describe("alerts.intent.single_features", found, expected, "see `smda policy`"))
    usual: dict[str, DriftIntent] = {k: "up" if (k == "harmful") == (wanted_on == "harmful") else "down" for k in KINDS}
    return {
        **{kind: getattr(asked, kind) or usual[kind] for kind in KINDS},
        FEATURES: asked.features,
        **asked.categories,
        **{f"{FEATURES}.{feature}": meant for feature, meant in asked.single_features.items()},
    }


def unintended(intent: Mapping[str, DriftIntent]) -> list[Direction]:
    """The directions in which each is not to drift."""
    against: dict[DriftIntent, tuple[float, ...]] = {"up": (-1.0,), "down": (1.0,), "still": (-1.0, 1.0), "any": ()}
    return [Direction(of, sign) for of, meant in intent.items() for sign in against[meant]]


def intent_in_words(behaviour: str, intent: Mapping[str, DriftIntent], alerts: AlertsConfig) -> str:
    """One line for the start of a run."""
    meant = ", ".join(f"{of} {word}" for of, word in intent.items())
    alerted = "no drift is alerted"
    if alerts.false_alarm is not None:
        behind = " and by rows that stand out" if alerts.drift_by == "outstanding" else ""
        alerted = f"drift the other way by over {alerts.tolerance:g} nats{behind} is alerted, falsely in at most "
        alerted += f"{100 * alerts.false_alarm:g} % of runs"
    return f"meant of {behaviour}: {meant}; {alerted}; of a row: what its own prompt calls for"
