"""Why a row goes where it goes, in plain sentences with the figures behind them."""

from __future__ import annotations

from ..records.curation import Bucket, MedianCut, RowFigures, ScoreCut
from .text import number


def reasons(
    row: RowFigures, bucket: Bucket, cut: ScoreCut | MedianCut, excess: float, rank: int, of: int, behaviour: str
) -> tuple[str, ...]:
    """The sentences for one judged row: `excess` is its score's over what is usual, `rank` that of the excess among
    `of` rows that have one (0: none)."""
    first = _by_score(row, cut, excess, rank, of) if isinstance(cut, ScoreCut) else _by_median(row, cut)
    if bucket == "keep":
        return (first,)
    return first, *_direction(row, behaviour), _shift(row), *_interference(row)


def _by_score(row: RowFigures, cut: ScoreCut, excess: float, rank: int, of: int) -> str:
    if not rank:
        return "No score: the row has no prompt of its own that could be read."
    place = (
        f"Score {number(row.score)}, {number(excess)} over what is usual of such prompts, rank {rank} of {of} by that"
    )
    if excess >= cut.threshold:
        return f"{place}: at or over {number(cut.threshold)}, flagged at a false-discovery rate of {cut.rate:g}."
    if excess >= cut.looser_threshold:
        at = f"at or over {number(cut.looser_threshold)}, flagged at the looser rate of {cut.looser_rate:g} alone"
        return f"{place}: {at}."
    flagged_from = "no row" if cut.threshold == float("inf") else f"rows from {number(cut.threshold)} on"
    return f"{place}: not flagged; a false-discovery rate of {cut.rate:g} flags {flagged_from}."


def _by_median(row: RowFigures, cut: MedianCut) -> str:
    if row.expected != row.expected:
        return "What its prompt calls for is not known: the row has no prompt of its own that could be read."
    if row.expected > 0:
        sort, side, others, bound, misaligned = "harmful", "below", "harmless", cut.harmless, cut.harmless > row.S
    else:
        sort, side, others, bound, misaligned = "harmless", "above", "harmful", cut.harmful, cut.harmful < row.S
    place = f"{'' if misaligned else 'not '}{side} {number(bound)}, the median of {others} rows"
    return f"A {sort} row by its prompt ({number(row.expected)} of -1 to +1), whose S {number(row.S)} is {place}."


def _direction(row: RowFigures, behaviour: str) -> list[str]:
    if row.expected != row.expected:
        return []
    calls = f"Its prompt calls for {'' if row.expected > 0 else 'no '}{behaviour}: {number(row.expected)} of -1 to +1."
    found = [calls]
    if row.own_push == row.own_push:
        side = "against" if row.own_push * row.expected < 0 else "along with"
        found.append(f"A step on it pushes {behaviour} on that prompt by {number(row.own_push)} nats, {side} that.")
    if row.answer_reading == row.answer_reading:
        side = "against" if row.answer_reading * row.expected < 0 else "along with"
        found.append(f"Its answer reads as {number(row.answer_reading)} (+1 shows {behaviour}, -1 not), {side} that.")
    return found


def _shift(row: RowFigures) -> str:
    does = "erodes" if row.S < 0 else "reinforces"
    side = ", against what its prompt calls for" if row.S * row.expected < 0 else ""
    return f"S {number(row.S)} ({does} the policy{side}): S_X {number(row.S_X)}, S_Y {number(row.S_Y)}."


def _interference(row: RowFigures) -> list[str]:
    if row.interference != row.interference:
        return []
    lead = f", most of it on feature {row.dominant_feature}" if row.dominant_feature >= 0 else ""
    part = "the part of its policy shift on features that its prompt does not call for"
    return [f"Interference {row.interference:.2f}: {part}{lead}."]
