"""Probes: the fixed prompts on which behaviour and features are read at every snapshot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

KINDS = ("harmful", "lookalike", "benign")
"""The probe kinds, in the order in which they are always shown."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt of a probe set."""

    id: str
    """Unique in its set."""
    prompt: str
    """The user's turn, as plain text."""
    category: str
    """Topic, e.g. ``fraud``; ``everyday`` for plain benign prompts."""
    kind: str
    """One of `KINDS`: a harmful request, a benign look-alike of one, or a plainly benign prompt."""
    pair: str | None = None
    """Shared by a harmful prompt and its minimal benign look-alike; None where there is no partner."""


@dataclass(frozen=True)
class ProbeSet:
    """An ordered set of probes, identified by a fingerprint of its contents."""

    probes: tuple[Probe, ...]
    """In file order; the order of the rows of every X and y measured on the set."""

    def __len__(self) -> int:
        return len(self.probes)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self.probes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) of ids, prompts, categories, kinds and pairs, in order."""
        rows = [[p.id, p.prompt, p.category, p.kind, p.pair] for p in self.probes]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The probes' ids, in order."""
        return tuple(p.id for p in self.probes)

    def select(self, positions: list[int]) -> ProbeSet:
        """The probes at `positions`, in that order."""
        return ProbeSet(tuple(self.probes[i] for i in positions))
