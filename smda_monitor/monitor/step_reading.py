"""The open steps of an account, read at its two ends, or from replays. Wiring, no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from ..instruments.assemble import Instruments
from ..instruments.own_prompts import OwnPrompts
from ..instruments.parameters import TrainedParameters
from ..instruments.products import fast_products
from ..maths.past import PastStep
from ..maths.probe_gradients import ProbeGradients
from ..maths.read_split import End, EndReading, SplitReading, read_end, read_split
from ..maths.replay_reading import replay_reading
from ..records.snapshot import Snapshot
from .open_step import OpenStep


def read_first(
    instruments: Instruments,
    past: Sequence[PastStep],
    steps: Sequence[OpenStep],
    before: Snapshot,
    gradients: ProbeGradients | None,
) -> EndReading | None:
    """The `steps` read at the parameters before them; None without `gradients` there, which may go then."""
    if gradients is None:
        return None
    end = End(gradients, instruments.plan.targets.weights(before.saturation))
    with fast_products():
        return read_end([s.taken for s in steps if s.taken], past, end, last=False)


def read_last(
    instruments: Instruments,
    parameters: TrainedParameters,
    past: Sequence[PastStep],
    steps: Sequence[OpenStep],
    first: EndReading | None,
    before: Snapshot,
    after: Snapshot,
    gradients: ProbeGradients | None,
    own: OwnPrompts,
) -> SplitReading:
    """The `steps` read at the parameters after them, too; from the replays of the last step where there are no
    gradients."""
    targets = instruments.plan.targets
    if gradients is None or first is None:
        replays = steps[-1].replays
        assert replays is not None
        pushes = own.pushes(replays.directions(parameters.flatten(parameters.weights)))
        return replay_reading(targets, before, replays.alone, replays.without, after, pushes)
    taken = [s.taken for s in steps if s.taken]
    end = End(gradients, targets.weights(after.saturation))
    with fast_products():
        last = read_end(taken, past, end, last=True, own=own.gradients, own_rows=own.read)
    return read_split(taken, first, last)
