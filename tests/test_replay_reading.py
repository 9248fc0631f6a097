"""A step made up of replays, against shifts that are written out from the snapshots."""

from __future__ import annotations

import torch
from test_targets import planned, random_snapshot

from smda_monitor.maths.replay_reading import pushed_y, read_measured, replay_reading


def test_a_row_is_what_the_step_without_it_lacks() -> None:
    plan, _ = planned()
    before, alone, after = (random_snapshot(seed) for seed in (1, 2, 3))
    without = [random_snapshot(seed) for seed in (4, 5)]
    own = torch.tensor([0.5, -1.0], dtype=torch.float64)
    found = replay_reading(plan, before, alone, without, after, own)
    assert torch.equal(found.push.targets, torch.stack([plan.measure(one, after) for one in without]))
    assert torch.equal(found.push.columns[:, 1 : 1 + len(after.y)], torch.stack([after.mass - s.mass for s in without]))
    assert torch.equal(found.shares.targets, found.push.targets)
    assert torch.equal(found.history.targets[0], plan.measure(before, alone))
    assert not bool(found.decay.targets.any() or found.decay.columns.any())
    assert found.past.shape == (0, len(plan.names))
    assert torch.equal(found.own, own)


def test_targets_of_a_replay_are_weighted_sums_of_its_columns() -> None:
    plan, _ = planned()
    ends = [(random_snapshot(1), random_snapshot(3)), (random_snapshot(3), random_snapshot(2))]
    found = read_measured(plan, ends)
    weights = plan.weights(torch.ones(len(ends[0][0].y), dtype=torch.float64))
    rest = [k for k in range(len(plan.names)) if k != 1]  # y of these snapshots is not their mass
    assert torch.allclose((found.columns @ weights.T)[:, rest], found.targets[:, rest], rtol=1e-12)


def test_y_is_pushed_by_what_it_loses_without_the_row() -> None:
    after, without = random_snapshot(3), [random_snapshot(4), random_snapshot(5)]
    found = pushed_y(without, after)
    for i, one in enumerate(without):
        assert torch.allclose(one.y + found[i], after.y, rtol=1e-12)
    assert float(found.abs().min()) > 0
