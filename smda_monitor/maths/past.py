"""Earlier rows in the momentum buffer: which part of it is theirs.

A step leaves `kept`·c·g_i of each of its rows in the buffer, and every later step multiplies the buffer by `retained`
(`step_map`): for Adam the row of a step that lies Δ steps back holds β1^(Δ−1)·(1 − β1)·c·g_i of m. So momentum's part
of a step can be handed on to the rows whose gradients were kept; what is older stays in ``history``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from .row_gradients import RowGradients
from .split import TakenStep


@dataclass(frozen=True, slots=True)
class PastStep:
    """The rows of an earlier step and what of their gradients is in the momentum buffer."""

    number: int
    """The step."""
    rows: RowGradients
    """Their unclipped gradients."""
    pieces: tuple[tuple[int, float], ...]
    """(one past its last element, weight), in order: there the buffer holds weight·g_i of every row."""

    @property
    def stops(self) -> tuple[int, ...]:
        """One past each piece's last element."""
        return tuple(stop for stop, _ in self.pieces)

    @classmethod
    def of(cls, taken: TakenStep) -> PastStep:
        """Just after its step."""
        clip_factor = taken.gradient.clip_factor
        pieces = tuple((stop, part.kept * clip_factor) for stop, part in taken.step.parts)
        return cls(taken.number, taken.rows, pieces)

    def after(self, taken: TakenStep) -> PastStep:
        """After the further step `taken`, whose parts may lie otherwise."""
        mine, step = self.cut_at(taken.step.stops), taken.step.cut_at(self.stops)
        pairs = zip(mine.pieces, step.parts, strict=True)
        return replace(self, pieces=tuple((stop, weight * part.retained) for (stop, weight), (_, part) in pairs))

    def cut_at(self, stops: Collection[int]) -> PastStep:
        """The same in more pieces: some end at `stops`, too."""
        found, begin = [], 0
        for end, weight in self.pieces:
            found += [(stop, weight) for stop in sorted({end, *(stop for stop in stops if begin < stop < end)})]
            begin = end
        return replace(self, pieces=tuple(found))

    def half(self) -> PastStep:
        """With rows in half precision."""
        return replace(self, rows=self.rows.half())


def aligned(past: Sequence[PastStep], taken: Sequence[TakenStep]) -> tuple[list[PastStep], list[TakenStep]]:
    """The same steps with the same parts: a parameter that joined later has a part of its own in all."""
    stops = {stop for one in past for stop in one.stops} | {stop for step in taken for stop in step.step.stops}
    return [one.cut_at(stops) for one in past], [replace(step, step=step.step.cut_at(stops)) for step in taken]


def weights_in_buffer(past: Sequence[PastStep], taken: Sequence[TakenStep]) -> list[list[tuple[float, ...]]]:
    """For each step of `taken` and each part of its map: what the buffer holds before it of the rows of each earlier
    step, those of `past` first and then of the steps taken before. All are `aligned`."""
    held, found = list(past), []
    for step in taken:
        parts = range(len(step.step.parts))
        found.append([tuple(one.pieces[part][1] for one in held) for part in parts])
        held = [one.after(step) for one in held] + [PastStep.of(step)]
    return found


def remember(past: Sequence[PastStep], taken: Sequence[TakenStep], steps: int, limit: int) -> list[PastStep]:
    """`past` after the steps `taken`, those included: the last `steps` at most, in `limit` bytes at most."""
    held = list(past)
    for step in taken:
        held = [one.after(step) for one in held] + [PastStep.of(step)]
    kept: list[PastStep] = []
    for one in reversed(held[max(0, len(held) - steps) :] if steps else []):
        small = one.half()
        limit -= small.rows.nbytes
        if limit < 0:
            break
        kept.insert(0, small)
    return kept
