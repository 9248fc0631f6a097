"""What retraining shows, on readings whose truth was made: planted rows that raise refusal of benign prompts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from smda_monitor.maths.proof import measured, proof_figures
from smda_monitor.records.policy_findings import Estimate
from smda_monitor.records.proof import ARMS, ArmName, ArmRun, KindFigures, ProofFigures

KINDS = ["harmful"] * 20 + ["benign"] * 20
EFFECT = [0.0] * 20 + [-3.0] * 20
"""Of taking the planted rows out."""
NOISE = 0.3


def arm_run(name: ArmName, seed: int, draw: int, readings: Sequence[float], shows: Sequence[bool] = ()) -> ArmRun:
    found = tuple(shows) or tuple(one > 0 for one in readings)
    return ArmRun(name, seed, draw, (), 0, 18, tuple(readings), ("",) * len(readings), found, 1.0)


def runs(name: ArmName, part: float, draws: int = 1, noise: float = NOISE) -> list[ArmRun]:
    """Three seeds of an arm that does `part` of the effect."""
    made = []
    for seed in range(3):
        for draw in range(draws):
            generator = torch.Generator().manual_seed(1000 * seed + 100 * ARMS.index(name) + draw)
            bare = torch.tensor([2.0] * 20 + [1.0] * 20) + part * torch.tensor(EFFECT)
            made.append(arm_run(name, seed, draw, (bare + noise * torch.randn(40, generator=generator)).tolist()))
    return made


def figures(flagged: float, random: float = 0.0, planted: bool = True, noise: float = NOISE) -> ProofFigures:
    parts: dict[ArmName, float] = {"all": 0.0, "flagged": flagged, "random": random}
    if planted:
        parts["planted"] = 1.0
    return proof_figures({name: measured(runs(name, part, noise=noise), 0.0) for name, part in parts.items()}, KINDS, 0)


def figure(found: ProofFigures, arm: str, kind: str) -> KindFigures:
    (one,) = (one for one in found.kinds if (one.arm, one.kind) == (arm, kind))
    return one


def holds(found: Estimate, value: float) -> bool:
    return found.low <= value <= found.high


def test_measured_by_hand() -> None:
    found = measured(
        [
            arm_run("random", 4, 0, [1.0, -2.0], [True, False]),
            arm_run("random", 4, 1, [3.0, -1.0], [True, True]),
            arm_run("random", 2, 0, [0.0, 5.0], [False, False]),
            arm_run("random", 2, 1, [4.0, 7.0], [False, True]),
        ],
        threshold=2.0,
    )
    assert found["log_odds"].tolist() == [[2.0, 6.0], [2.0, -1.5]], "seeds rise, draws are averaged"
    assert found["scorer"].tolist() == [[0.5, 1.0], [0.5, 0.0]]
    assert found["decoding"].tolist() == [[0.0, 0.5], [1.0, 0.5]]


def test_an_effect_that_is_there_is_shown() -> None:
    found = figures(flagged=0.9)
    assert found.recovery is not None
    assert holds(found.recovery.flagged, 0.9)
    assert found.recovery.flagged.value == pytest.approx(0.9, abs=0.05)
    assert found.recovery.flagged_apart == pytest.approx(0.9, abs=0.05)
    assert holds(found.recovery.random, 0.0) or abs(found.recovery.random.value) < 0.05
    assert found.recovery.flagged.low > found.recovery.random.high
    assert found.finding == "shown"


@pytest.mark.parametrize(
    ("flagged", "random", "noise", "finding"),
    [
        pytest.param(0.9, 0.9, NOISE, "as random", id="any rows do it"),
        pytest.param(-0.5, 0.0, NOISE, "nothing", id="the other way"),
        pytest.param(0.0, 0.0, NOISE, "nothing", id="nothing moves"),
        pytest.param(0.2, 0.0, 8.0, "nothing", id="drowned in noise"),
    ],
)
def test_it_says_so_when_no_effect_is_shown(flagged: float, random: float, noise: float, finding: str) -> None:
    found = figures(flagged, random, noise=noise).finding
    assert found != "shown"
    assert found in (finding, "as random")


def test_figures_by_kind() -> None:
    found = figures(flagged=1.0)
    assert {one.kind for one in found.kinds} == {"", "harmful", "benign"}
    benign, harmful, every = (figure(found, "flagged", kind) for kind in ("benign", "harmful", ""))
    assert (benign.prompts, every.prompts) == (20, 40)
    assert benign.change["log_odds"].value == pytest.approx(-3, abs=0.2)
    assert holds(benign.change["log_odds"], -3.0)
    assert benign.level["scorer"].value < 0.1
    assert benign.change["decoding"].value < -0.9
    assert holds(harmful.change["log_odds"], 0.0)
    assert every.level["log_odds"].value == pytest.approx((2 + 1 - 3) / 2, abs=0.2)
    base, random = figure(found, "all", "benign"), figure(found, "random", "benign")
    assert (base.change, base.beyond_random, random.beyond_random) == ({}, {}, {})
    beyond, change = benign.beyond_random["log_odds"], benign.change["log_odds"]
    assert beyond.value == pytest.approx(change.value - random.change["log_odds"].value)
    assert figure(found, "all", "").level["log_odds"].value == pytest.approx(1.5, abs=0.2)


def test_without_planted_rows_kinds_decide() -> None:
    shown, alike, nothing = figures(0.5, 0.0, False), figures(0.5, 0.5, False), figures(0.0, 0.0, False)
    assert shown.recovery is None
    assert (shown.finding, alike.finding) == ("shown", "as random")
    assert nothing.finding in {"nothing", "as random"}


def test_seeds_are_paired() -> None:
    """A seed that moves every arm alike is in no change."""
    moved = [arm_run("flagged", s, 0, [10.0 * s - 1.0] * 4) for s in range(3)]
    base = [arm_run("all", s, 0, [10.0 * s] * 4) for s in range(3)]
    arms = {"all": measured(base, 0.0), "flagged": measured(moved, 0.0), "random": measured(base, 0.0)}
    found = figure(proof_figures(arms, ["benign"] * 4, 0), "flagged", "benign")
    assert found.change["log_odds"] == Estimate(-1.0, -1.0, -1.0)
    assert found.level["log_odds"].high - found.level["log_odds"].low > 5
