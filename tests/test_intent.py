"""What a run is meant to do: by default, as declared, in words, and what is refused."""

from __future__ import annotations

import pytest

from smda_monitor.errors import ConfigError
from smda_monitor.maths.intent import FEATURES, Direction, categories, intent_in_words, intents, unintended
from smda_monitor.records.alerts_config import AlertsConfig, IntentConfig
from smda_monitor.records.probes import Probe, ProbeSet

NAMED = (("harmful", ("fraud", "malware")), ("lookalike", ("fraud",)), ("benign", ("food", "travel")))
PROBES = ProbeSet(
    tuple(
        Probe(f"{kind}-{category}-{i}", f"{kind} {category} {i}?", category, kind)
        for kind, named in NAMED
        for category in named
        for i in range(2)
    )
)
IDS = (40, 41, 42)


def test_by_default_the_behaviour_goes_where_it_is_wanted() -> None:
    usual = intents(IntentConfig(), "harmful", PROBES, IDS)
    assert usual == {"harmful": "up", "lookalike": "down", "benign": "down", FEATURES: "still"}
    assert unintended(usual) == [
        Direction("harmful", -1.0),
        Direction("lookalike", 1.0),
        Direction("benign", 1.0),
        Direction(FEATURES, -1.0),
        Direction(FEATURES, 1.0),
    ]
    other = intents(IntentConfig(benign="still", features="any"), "harmless", PROBES, IDS)
    assert other == {"harmful": "down", "lookalike": "up", "benign": "still", FEATURES: "any"}
    assert unintended({"harmful": "still", "benign": "any"}) == [
        Direction("harmful", -1.0),
        Direction("harmful", 1.0),
    ]


def test_categories_and_features_are_declared_beside_the_kinds() -> None:
    assert categories(PROBES) == ["harmful.fraud", "harmful.malware", "benign.food", "benign.travel"]
    asked = IntentConfig(categories={"benign.food": "still"}, single_features={42: "up"})
    found = intents(asked, "harmful", PROBES, IDS)
    assert {of: found[of] for of in ("benign", "benign.food", "features.42")} == {
        "benign": "down", "benign.food": "still", "features.42": "up",
    }  # fmt: skip
    assert Direction("features.42", -1.0) in unintended(found)
    assert Direction("features.42", 1.0) not in unintended(found)


def test_what_is_not_measured_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"lookalike\.fraud.*benign\.food, benign\.travel"):
        intents(IntentConfig(categories={"lookalike.fraud": "up"}), "harmful", PROBES, IDS)
    with pytest.raises(ConfigError, match=r"single_features: found 7.*3 that the policy reads"):
        intents(IntentConfig(single_features={7: "up"}), "harmful", PROBES, IDS)


def test_in_words() -> None:
    intent = intents(IntentConfig(), "harmful", PROBES, IDS)
    assert intent_in_words("refusal", intent, AlertsConfig()) == (
        "meant of refusal: harmful up, lookalike down, benign down, features still; drift the other way by over 0.5 "
        "nats is alerted, falsely in at most 1 % of runs; of a row: what its own prompt calls for"
    )
    by_rows = intent_in_words("refusal", intent, AlertsConfig(drift_by="outstanding"))
    assert "by over 0.5 nats and by rows that stand out is alerted" in by_rows
    assert "no drift is alerted" in intent_in_words("refusal", intent, AlertsConfig(false_alarm=None))
