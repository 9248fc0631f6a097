"""The open steps of an account, read at its two ends, or from replays. Wiring, no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from ..instruments.assemble import Instruments
from ..instruments.own_prompts import OwnPrompts
from ..instruments.parameters import TrainedParameters
from ..instruments.products import fast_products
from ..maths.past import PastStep
from ..maths.probe_gradients import ProbeGradients
from ..maths.read_split import End, EndReading, SplitReading, only, read_end, read_split
from ..maths.replay_reading import replay_reading
from ..records.snapshot import Snapshot
from .open_step import OpenStep


class StepReading:
    """The `steps` of one account, after those of `past`: read at its `first` end, then at its `last`, so that the
    probes' gradients there are never in memory together."""

    def __init__(
        self,
        instruments: Instruments,
        parameters: TrainedParameters,
        past: Sequence[PastStep],
        steps: Sequence[OpenStep],
    ) -> None:
        self._targets, self._ranks = instruments.plan.targets, instruments.ranks
        self._parameters, self._past, self._steps = parameters, past, steps
        self._taken = [step.taken for step in steps if step.taken]
        self._before: Snapshot | None = None
        self._first: EndReading | None = None

    def first(self, before: Snapshot, gradients: ProbeGradients | None) -> None:
        """At the parameters before the steps. No `gradients`: the steps were replayed."""
        self._before = before
        if gradients is not None:
            end = End(gradients, self._targets.weights(before.saturation))
            with fast_products():
                self._first = self._whole(read_end(self._taken, self._past, end, last=False))

    def last(self, after: Snapshot, gradients: ProbeGradients | None, own: OwnPrompts) -> SplitReading:
        """At the parameters after them, too; with the gradients of the rows' `own` prompts there."""
        assert self._before is not None, "the first end comes first"
        if gradients is None or self._first is None:
            replays = self._steps[-1].replays
            assert replays is not None
            pushes = own.pushes(replays.directions(self._parameters.flatten(self._parameters.weights)))
            whole = only(self._ranks.of_shares(pushes))
            return replay_reading(self._targets, self._before, replays.alone, replays.without, after, whole)
        end = End(gradients, self._targets.weights(after.saturation))
        with fast_products():
            last = read_end(self._taken, self._past, end, last=True, own=own.gradients, own_rows=own.read)
        return read_split(self._taken, self._first, self._whole(last))

    def _whole(self, end: EndReading) -> EndReading:
        """From what the ranks read, each on the columns and own prompts that it measured."""
        return EndReading.whole(self._ranks.of_shares(end))
