"""``policy.json``: everything of a saved policy but its tensors, checked field by field."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from ..records.policy import Fingerprints, PolicyQuality

SCHEMA = 1
"""Version of the two files' layout."""


class QualityHeader(BaseModel, extra="forbid", strict=True, frozen=True):
    """`PolicyQuality`; None stands for NaN."""

    r2_fit: float | None
    r2_heldout: float | None
    r2_constant: float | None
    n_heldout: int = Field(ge=0)

    def record(self) -> PolicyQuality:
        """As the record."""
        figures = (float("nan") if x is None else x for x in (self.r2_fit, self.r2_heldout, self.r2_constant))
        return PolicyQuality(next(figures), next(figures), next(figures), self.n_heldout)


class PolicyHeader(BaseModel, extra="forbid", strict=True, frozen=True):
    """policy.json; None stands for NaN, which JSON has not."""

    schema_version: Literal[1]
    preset: Literal["robust", "paper"]
    alpha: float
    intercept: float
    has_intercept: bool
    fit_ids: list[str]
    quality: QualityHeader
    fingerprints: Fingerprints
    answer_offset: float | None = None
    asked_offset: float | None = None
    prompt_offset: float | None = None
    notes: dict[str, str]
    tensors_sha256: str
