"""Probes by kind, against means written out."""

from __future__ import annotations

import pytest
import torch

from smda_monitor.maths.by_kind import are_harmful, readings_by_kind
from smda_monitor.records.probes import Probe, ProbeSet
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

KINDS = ("lookalike", "harmful", "harmful", "lookalike", "harmful", "lookalike")
CATEGORIES = ("fraud", "fraud", "fraud", "fraud", "privacy", "privacy")
PROBES = ProbeSet(tuple(Probe(f"p{i}", f"prompt {i}", CATEGORIES[i], kind) for i, kind in enumerate(KINDS)))
MASS, CONTRAST = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [-1.0, 0.5, 0.25, 3.0, -7.0, 9.0]


def snapshot(chosen: list[int]) -> Snapshot:
    mass, contrast = (torch.tensor([v[i] for i in chosen], dtype=torch.float64) for v in (MASS, CONTRAST))
    ids = tuple(PROBES.ids[i] for i in chosen)
    nothing = torch.zeros(len(chosen), 2)
    return Snapshot(0, ids, nothing, mass, mass, contrast, nothing.double(), DictionaryHealth(0.1, 1.0, 0.0))


def test_which_are_harmful() -> None:
    assert are_harmful(PROBES).tolist() == [kind == "harmful" for kind in KINDS]
    assert (are_harmful([]).shape, are_harmful([]).dtype) == ((0,), torch.bool)


def test_of_the_whole_set_means_are_plain_and_have_no_error() -> None:
    means, errors = readings_by_kind(snapshot([5, 0, 1, 2, 3, 4]), PROBES)
    assert set(means) == set(errors) == {f"{r}.{k}" for r in ("mass", "contrast") for k in ("harmful", "lookalike")}
    assert means["mass.harmful"] == pytest.approx((2 + 4 + 16) / 3)
    assert means["mass.lookalike"] == pytest.approx((1 + 8 + 32) / 3)
    assert means["contrast.harmful"] == pytest.approx((0.5 + 0.25 - 7) / 3)
    assert set(errors.values()) == {0.0}


def test_a_measured_probe_counts_for_the_others_of_its_stratum() -> None:
    means, errors = readings_by_kind(snapshot([2, 4]), PROBES)
    assert means == {"mass.harmful": pytest.approx((2 * 4 + 16) / 3), "contrast.harmful": pytest.approx((0.5 - 7) / 3)}
    assert all(error > 0 for error in errors.values())
