"""A snapshot: features and behaviour of the probes at one optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, slots=True)
class DictionaryHealth:
    """How well the dictionary still fits the model, by its native encoder at the read position of the probes."""

    fvu: float
    """Fraction of variance unexplained, Σ‖h − ĥ‖² / Σ‖h − mean h‖²; 0 is a perfect reconstruction, unbounded above."""
    l0: float
    """Mean number of active features per probe."""
    dead: float
    """Fraction of features active on no measured probe, in [0, 1]; large on few probes, also for a dictionary whose
    features all fire somewhere."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """(X, y) of n measured probes at one step, with both readings of the behaviour."""

    step: int
    """Optimizer steps taken so far; 0 is before training."""
    probe_ids: tuple[str, ...]
    """The measured probes, the order of the rows below; n of them."""
    X: Tensor
    """(n, d) gated feature activations, columns in the order of the policy's ``feature_ids``; float32."""
    y: Tensor
    """(n,) the reading that the policy is fitted to: log-odds, or log-probability under the paper preset; float64."""
    mass: Tensor
    """(n,) log-odds of the summed probability of the behaviour's openings; natural log; float64."""
    contrast: Tensor
    """(n,) mean log-probability of the openings minus that of the opposite ones; nats; float64."""
    openings: Tensor
    """(n, k) log-probability of every opening, the behaviour's first and then the opposite ones; float64."""
    health: DictionaryHealth
    """Fit of the dictionary on these probes; on all that were measured together, in a part of a snapshot."""

    @property
    def saturation(self) -> Tensor:
        """(n,) 1 − P, P the summed probability of the behaviour's openings; in [0, 1]; float64."""
        return (-self.mass).sigmoid()

    def part(self, probe_ids: Sequence[str]) -> Snapshot:
        """The rows of `probe_ids`, in that order. Raises `ValueError` for one that was not measured."""
        at = [self.probe_ids.index(probe_id) for probe_id in probe_ids]
        rows = {name: getattr(self, name)[at] for name in ("X", "y", "mass", "contrast", "openings")}
        return replace(self, probe_ids=tuple(probe_ids), **rows)
