"""Watched features: which they are, and at which accounts their shifts are split among rows. Wiring, no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..instruments.assemble import Instruments
from ..instruments.parameters import TrainedParameters
from ..instruments.quiet import quiet
from ..instruments.watch import pushes_by_backward, pushes_by_replay
from ..maths.watched import WatchedShifts, cheaper_way, drifting_features, leading_features
from ..records.account import RowEntry, StepAccount, WatchedBy
from ..records.snapshot import Snapshot
from .open_step import OpenStep


class Watcher:
    """Watches the features of one run. At every account: `begin`, then `split`."""

    def __init__(self, instruments: Instruments, parameters: TrainedParameters) -> None:
        self._config = instruments.bench.config.account
        self.instruments = instruments
        """With the step plan of the present account."""
        self._parameters = parameters
        self._leading = leading_features(instruments.policy, self._config.watched_features)
        self._accounts = 0
        self._due = False
        self.columns = self._leading
        """The watched features' columns of the policy at present."""

    def resume(self, accounts: Sequence[StepAccount]) -> None:
        """Goes on after the `accounts` of an earlier part of the run."""
        self._accounts = len(accounts)
        if accounts:
            places = {feature: k for k, feature in enumerate(self.instruments.policy.feature_ids)}
            self.columns = [places[shift.feature] for shift in accounts[-1].watched]

    def begin(self, drift: Tensor) -> None:
        """Another account, at this `drift` (d,): where it splits the watched features, those that drift are chosen
        anew."""
        every = self._config.watched_every
        self._accounts += 1
        self._due = every > 0 and self._accounts % every == 0
        if self._due:
            coef, count = self.instruments.policy.coef, self._config.watched_drifting
            self.columns = self._leading + drifting_features(drift, coef, count, self._leading)

    def split(
        self, last: OpenStep, rows: Sequence[RowEntry], delta_y: Tensor, after: Snapshot
    ) -> tuple[tuple[RowEntry, ...], WatchedBy]:
        """The account's `rows`, those of its `last` step with their pushes on the watched features where this account
        splits them, and how that was done. `delta_y` (n, m) are the n rows' pushes on y, probe by probe."""
        if not self._due or not self.columns:
            return tuple(rows), ""
        plan, policy = self.instruments.plan, self.instruments.policy
        watched = WatchedShifts.of(self.instruments.frame, plan.rows, plan.weights, self.columns)
        through_features, by = self._through_features(last, watched, after)
        pathways = through_features.tolist(), watched.through_output(delta_y).tolist()
        ids = [policy.feature_ids[k] for k in self.columns]
        earlier = len(rows) - len(through_features)
        split = [
            replace(row, watched={feature: (x, y) for feature, x, y in zip(ids, on_X, on_Y, strict=True)})
            for row, on_X, on_Y in zip(rows[earlier:], *pathways, strict=True)
        ]
        return (*rows[:earlier], *split), by

    def _through_features(self, last: OpenStep, watched: WatchedShifts, after: Snapshot) -> tuple[Tensor, WatchedBy]:
        if last.taken is None:
            assert last.replays is not None
            return watched.by_replay(after.X, (without.X for without in last.replays.without)), "replay"
        asked = self._config.watched_by
        by = cheaper_way(len(last.rows), watched.count) if asked == "auto" else asked
        pushes = pushes_by_backward if by == "backward" else pushes_by_replay
        reader = self.instruments.reader
        with quiet(reader.model):
            prompts = self.instruments.tokens(self.instruments.plan.chosen)
            return pushes(reader, prompts, watched, self._parameters, last.taken), by
