"""The plan of a step: measured probes, their rows in the fit set, weights, targets, and what they say of the set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_pathways import make_policy

from smda_monitor.errors import PrerequisiteError
from smda_monitor.instruments.plan import StepPlan, plan_step
from smda_monitor.maths.by_kind import readings_by_kind
from smda_monitor.maths.pathways import PolicyFrame, score_cotangent_X, score_cotangent_y
from smda_monitor.maths.sampling import stratum_weights
from smda_monitor.records.account import is_leading
from smda_monitor.records.policy import SymbolicPolicy
from smda_monitor.records.probes import Probe, ProbeSet
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

N, FURTHER, D = 30, 8, 5


def probe_set(kinds: tuple[str, ...] = ("harmful", "lookalike", "benign")) -> ProbeSet:
    topics = ("fraud", "privacy", "malware")
    return ProbeSet(tuple(Probe(f"p{i}", f"prompt {i}", topics[i % 5 % 3], kinds[i % len(kinds)]) for i in range(N)))


def fitted(ids: tuple[str, ...], seed: int = 0, preset: str = "robust") -> SymbolicPolicy:
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(len(ids), D, generator=generator, dtype=torch.float64)
    made = make_policy(X, torch.randn(len(ids), generator=generator, dtype=torch.float64), preset == "robust")
    return replace(made, fit_ids=ids)


PROBES = probe_set()
FIT_IDS = (*PROBES.ids[::-1], *(f"further{i}" for i in range(FURTHER)))
"""The probes in another order than in their set: rows are found by id."""


def planned(per_step: int = 10, seed: int = 0, preset: str = "robust") -> tuple[StepPlan, SymbolicPolicy]:
    policy = fitted(FIT_IDS, preset=preset)
    return plan_step(PROBES, policy, PolicyFrame.of(policy), per_step, seed), policy


def snapshot(positions: list[int], shuffle: bool = False) -> Snapshot:
    """Of the probes at `positions`; every figure tells which probe it belongs to."""
    if shuffle:
        order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(3)).tolist()
        positions = [positions[i] for i in order]
    at = torch.tensor(positions, dtype=torch.float64)
    ids = tuple(PROBES.ids[i] for i in positions)
    X = (at[:, None] + torch.arange(D) / 10).float()
    return Snapshot(3, ids, X, at, at + 100, at.square(), at[:, None] + 7, DictionaryHealth(0.1, 2.0, 0.3))


def test_rows_are_found_by_id_and_targets_are_the_pathways() -> None:
    plan, policy = planned()
    frame = PolicyFrame.of(policy)
    assert len(plan.chosen) == 10
    assert [policy.fit_ids[r] for r in plan.rows.tolist()] == [PROBES.ids[i] for i in plan.chosen]
    strata = [f"{p.kind}/{p.category}" for p in PROBES]
    assert torch.equal(plan.weights, stratum_weights(strata, plan.chosen))
    assert float(plan.weights.sum()) == pytest.approx(N)
    assert torch.equal(plan.targets.cotangent_X, score_cotangent_X(frame, plan.rows, plan.weights))
    assert torch.equal(plan.targets.cotangent_y, score_cotangent_y(frame, plan.rows, plan.weights))
    wrong_rows = torch.tensor(plan.chosen)
    assert not torch.equal(plan.targets.cotangent_y, score_cotangent_y(frame, wrong_rows, plan.weights))
    assert torch.equal(plan.targets.coef, frame.w)
    groups = [name.removeprefix("mass.") for name in plan.targets.names if name.startswith("mass.")]
    assert {group.split(".")[0] for group in groups} == {"harmful", "lookalike", "benign"}
    assert any("." in group for group in groups), "kinds of several topics are told apart by them"
    for group, weights in zip(groups, plan.targets.groups, strict=True):
        assert float(weights.sum()) == pytest.approx(1)
        members = {PROBES.probes[plan.chosen[j]] for j in weights.nonzero()[:, 0].tolist()}
        kind, _, topic = group.partition(".")
        expected = [PROBES.probes[i] for i in plan.chosen]
        assert members == {p for p in expected if p.kind == kind and topic in ("", p.category)}


def test_the_reading_is_the_policys() -> None:
    assert planned()[0].targets.reading == "mass"
    assert planned(preset="paper")[0].targets.reading == "log_probability"


def test_zero_measures_all_and_every_kind_is_there() -> None:
    whole, _ = planned(per_step=0)
    assert whole.chosen == list(range(N))
    assert whole.weights.tolist() == pytest.approx([1.0] * N)
    part, _ = planned(per_step=4)
    assert {PROBES.probes[i].kind for i in part.chosen} == {"harmful", "lookalike", "benign"}


def test_the_choice_is_the_seeds() -> None:
    assert planned(seed=1)[0].chosen == planned(seed=1)[0].chosen
    assert any(planned(seed=s)[0].chosen != planned(seed=0)[0].chosen for s in (1, 2, 3))


def test_a_policy_of_other_probes_is_refused() -> None:
    policy = fitted((*PROBES.ids[2:], "other1", "other2"))
    with pytest.raises(PrerequisiteError, match=r"2 probes that are not in its fit set, first 'p0'.*policy\.path: fit"):
        plan_step(PROBES, policy, PolicyFrame.of(policy), 10, 0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_part_takes_the_measured_probes_by_id(shuffle: bool) -> None:
    plan, _ = planned()
    part = plan.part(snapshot(list(range(N)), shuffle))
    expected = snapshot(plan.chosen)
    assert part.probe_ids == expected.probe_ids
    for name in ("X", "y", "mass", "contrast", "openings"):
        assert torch.equal(getattr(part, name), getattr(expected, name)), name
    assert (part.step, part.health) == (3, DictionaryHealth(0.1, 2.0, 0.3))


def test_refusal_is_the_weighted_mean_of_each_kind() -> None:
    plan, _ = planned()
    means, errors = readings_by_kind(snapshot(plan.chosen), PROBES)
    assert set(means) == set(errors)
    assert set(means) == {f"{r}.{k}" for r in ("mass", "contrast") for k in ("harmful", "lookalike", "benign")}
    for kind in ("harmful", "lookalike", "benign"):
        here = [(i, float(w)) for i, w in zip(plan.chosen, plan.weights, strict=True) if PROBES.probes[i].kind == kind]
        total = sum(w for _, w in here)
        assert means[f"mass.{kind}"] == pytest.approx(sum(w * (i + 100) for i, w in here) / total)
        assert means[f"contrast.{kind}"] == pytest.approx(sum(w * i * i for i, w in here) / total)
        assert errors[f"mass.{kind}"] > 0


def test_the_whole_set_has_no_sampling_error() -> None:
    means, errors = readings_by_kind(snapshot(list(range(N))), PROBES)
    assert set(errors.values()) == {0.0}
    harmful = [i for i in range(N) if PROBES.probes[i].kind == "harmful"]
    assert means["mass.harmful"] == pytest.approx(100 + sum(harmful) / len(harmful))


def test_measured_part_and_targets_agree() -> None:
    """The mean that is shown and the target that is split are one figure."""
    plan, _ = planned()
    before = snapshot(plan.chosen)
    moved = torch.linspace(-1, 2, len(plan.chosen), dtype=torch.float64)
    after = replace(before, mass=before.mass + moved, contrast=before.contrast - moved)
    shift = dict(zip(plan.targets.names, plan.targets.measure(before, after).tolist(), strict=True))
    start, end = readings_by_kind(before, PROBES)[0], readings_by_kind(after, PROBES)[0]
    for name in start:
        assert shift[name] == pytest.approx(end[name] - start[name], abs=1e-9)


def test_a_set_of_one_kind() -> None:
    probes = probe_set(("benign",))
    policy = fitted((*probes.ids,))
    plan = plan_step(probes, policy, PolicyFrame.of(policy), 6, 0)
    leading = [name for name in plan.targets.names if is_leading(name)]
    assert leading == ["S_X", "S_Y", "mass.benign", "contrast.benign", "explained.benign"]
    assert float(plan.weights.sum()) == pytest.approx(N)
