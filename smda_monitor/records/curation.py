"""What becomes of the rows of an audited data set: kept, to be looked at by a person, or taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Bucket = Literal["keep", "review", "remove"]
BUCKETS: tuple[Bucket, ...] = ("keep", "review", "remove")
"""In the order in which they are shown."""
CurationRule = Literal["score", "median"]
"""``score``: rows whose score, over what is usual, stands out of the rows' own bulk, at a chosen false-discovery rate;
``median``: the paper's, by the pair score S."""


@dataclass(frozen=True, slots=True)
class RowFigures:
    """What an audit found of one row, as far as curation looks at it."""

    row_id: str
    """The row's id."""
    line: int
    """Its line, or row, in the data set that was audited, from 1."""
    score: float
    """Suspicion (`maths.score`); NaN where the row has none."""
    S_X: float
    """Pathway of feature activation, units of w²."""
    S_Y: float
    """Pathway of output probability, units of w²."""
    own_push: float
    """Push on the contrast of its own prompt, nats; NaN where that was not read."""
    answer_reading: float
    """What its answer shows: about +1 the behaviour, −1 not; NaN without reference answers."""
    expected: float
    """What its prompt calls for, in (−1, 1): 1 the behaviour, −1 not; NaN where that was not read."""
    interference: float
    """In [0, 1]; NaN where its own prompt was not read."""
    dominant_feature: int
    """Feature id with the largest |ΔW_k w_k|; −1 where it moved none."""
    unintended: bool
    """As `RowEntry.unintended`."""

    @property
    def S(self) -> float:
        """The pair score S_X + S_Y."""
        return self.S_X + self.S_Y


@dataclass(frozen=True, slots=True)
class ScoreCut:
    """Where the score rule draws its lines: in the excess of scores over what is usual (`maths.curation`)."""

    rate: float
    """False-discovery rate of ``remove``."""
    centre: float
    """Of the rows' own bulk; units of the score. NaN without a row that has a score."""
    spread: float
    """The bulk's standard deviation as its lower half has it; ≥ 0, units of the score."""
    threshold: float
    """The lowest excess that is flagged at `rate`; inf where none is."""
    looser_rate: float
    """Of ``review``."""
    looser_threshold: float
    """The lowest excess that is flagged at `looser_rate`; inf where none is."""
    mirrored: float
    """(1 + rows that lie as far below the centre as the threshold lies above it) / rows flagged: the rate by another
    assumption, that the bulk is symmetric, whatever its shape; NaN where none is flagged."""


@dataclass(frozen=True, slots=True)
class MedianCut:
    """Where the median rule draws its lines."""

    harmful: float
    """Median S of the rows whose prompts call for the behaviour; NaN without one."""
    harmless: float
    """Median S of the others; NaN without one."""


@dataclass(frozen=True, slots=True)
class RowVerdict:
    """What becomes of one row, and why."""

    bucket: Bucket
    """Where it goes."""
    reasons: tuple[str, ...]
    """Plain sentences with the figures that led there."""
