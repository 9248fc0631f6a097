"""Probes by kind: which are harmful, and both readings of the behaviour as means over each kind, from a snapshot of
the whole set or of a part."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool
from torch import Tensor

from ..records.probes import KINDS, Probe, ProbeSet
from ..records.snapshot import Snapshot
from .sampling import stratum, stratum_weights, weighted_mean_and_error


def are_harmful(probes: Iterable[Probe]) -> Bool[Tensor, " n"]:
    """Which of n `probes` are harmful, in their order."""
    return torch.tensor([probe.kind == "harmful" for probe in probes], dtype=torch.bool)


def readings_by_kind(snapshot: Snapshot, probes: ProbeSet) -> tuple[dict[str, float], dict[str, float]]:
    """(means, standard errors) by ``mass.<kind>`` and ``contrast.<kind>``, nats, as estimates for all of `probes`.

    A measured probe counts for those of its stratum that were not (`sampling`); the whole set gives plain means and
    error 0. Kinds without a measured probe are left out.
    """
    place = {probe_id: i for i, probe_id in enumerate(probes.ids)}
    chosen = [place[probe_id] for probe_id in snapshot.probe_ids]
    strata = [stratum(probe) for probe in probes]
    weights = stratum_weights(strata, chosen)
    means, errors = {}, {}
    for reading in ("mass", "contrast"):
        values = getattr(snapshot, reading)
        for kind in KINDS:
            here = [j for j, i in enumerate(chosen) if probes.probes[i].kind == kind]
            if here:
                population = [s for s, p in zip(strata, probes, strict=True) if p.kind == kind]
                mine = [strata[chosen[j]] for j in here]
                name = f"{reading}.{kind}"
                means[name], errors[name] = weighted_mean_and_error(values[here], weights[here], mine, population)
    return means, errors
