"""Watched features of rows judged alone: by gradient as by replay, by autograd, and as parts of the whole score."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import alone
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from test_audit_rows import answer_losses, judged, opened
from torch import Tensor

from smda_monitor.commands.audit_rows import DataAudit
from smda_monitor.commands.training import Training
from smda_monitor.instruments.assemble import Instruments
from smda_monitor.instruments.watched_gradients import kept_gradients
from smda_monitor.maths.pathways import feature_shift
from smda_monitor.maths.watched import WatchedShifts, leading_features
from smda_monitor.records.row_audit import RowAudit

LAYER, THRESHOLD = 1, 0.05
"""Where the tiny dictionary reads, and from where on its features are on."""


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Instruments]:
    return opened(tmp_path_factory.mktemp("watched"), "robust")


def watching(instruments: Instruments, count: int, memory_gib: float | None = None) -> Instruments:
    """The same with another number of watched features, and another budget of memory."""
    config = instruments.bench.config
    account = config.account.model_copy(update={"watched_features": count})
    bench = replace(instruments.bench, config=config.model_copy(update={"account": account}))
    reader = instruments.reader if memory_gib is None else replace(instruments.reader, memory_gib=memory_gib)
    return replace(instruments, bench=bench, reader=reader)


def shifts(found: list[RowAudit], name: str) -> Tensor:
    return torch.tensor([[getattr(one, name) for one in row.watched] for row in found], dtype=torch.float64)


def test_by_gradient_as_by_replay(robust: tuple[Training, Instruments]) -> None:
    training, instruments = robust
    exact, cheap = judged(training, instruments, "replay"), judged(training, instruments, "gradient")
    features = [instruments.policy.feature_ids[k] for k in leading_features(instruments.policy, 16)]
    assert len(features) == 16
    assert all([one.feature for one in row.watched] == features for row in (*exact, *cheap))
    for name, least, error in (("shift_X", 0.9, 0.15), ("shift_Y", 0.98, 0.05)):
        expected, found = shifts(exact, name), shifts(cheap, name)
        ranks = [spearmanr(expected[:, k], found[:, k]).statistic for k in range(16)]
        assert np.median(ranks) > least
        assert float(((found - expected) / expected).abs().median()) < error
        assert float(((found.roll(1, 1) - expected) / expected).abs().median()) > 0.5, "features differ"
        assert float(((found.roll(1, 0) - expected) / expected).abs().median()) > 0.3, "rows differ"
    assert not shifts(exact, "refit").isnan().any()
    assert shifts(cheap, "refit").isnan().all()
    for row in cheap:
        size = [abs((one.shift_X + one.shift_Y) * one.coefficient) for one in row.features]
        assert size == sorted(size, reverse=True)
        assert {one.feature for one in row.features} == set(features)


def test_a_row_by_autograd_alone(robust: tuple[Training, Instruments]) -> None:
    """δ by torch's AdamW on copies; ∇ΔW_X,k by autograd through transformers' own hidden states, at θ + u(0)."""
    training, instruments = robust
    audit = DataAudit(training, instruments, "gradient", ["a"] * 12, range(12))
    (found,) = audit.judge([3])
    weights = [w for w in training.model.parameters() if w.requires_grad]
    training.model.train()
    gradient = torch.autograd.grad(answer_losses(training, 3).sum() / training.tokens, weights)  # type: ignore[operator]
    norm = torch.cat([g.reshape(-1) for g in gradient]).norm().item()
    clip = min(1.0, training.max_norm / (norm + 1e-6))
    with_row, without = (stepped(training, weights, [scale * clip * g for g in gradient]) for scale in (1.0, 0.0))
    before = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w, value in zip(weights, without, strict=True):
            w.copy_(value)
    training.model.eval()
    plan, policy = instruments.plan, instruments.policy
    X = torch.stack([features(instruments, prompt) for prompt in instruments.tokens(plan.chosen)])[
        :, list(policy.feature_ids)
    ]
    for at, k in enumerate(leading_features(policy, 3)):
        shift = feature_shift(instruments.frame, plan.rows, X.double(), plan.weights)[k]
        slopes = torch.autograd.grad(shift, weights, retain_graph=True, allow_unused=True)
        expected = sum(
            float(((a - b).double() * g.double()).sum())
            for a, b, g in zip(with_row, without, slopes, strict=True)
            if g is not None
        )
        assert found.watched[at].shift_X == pytest.approx(expected, rel=2e-3)
        assert abs(expected) > 1e-6, "something moved"
    with torch.no_grad():
        for w, value in zip(weights, before, strict=True):
            w.copy_(value)


def stepped(training: Training, weights: list[Tensor], gradient: list[Tensor]) -> list[Tensor]:
    """The weights after torch's own AdamW step with `gradient`."""
    twins = [w.detach().clone().requires_grad_() for w in weights]
    group = {**training.optimizer.param_groups[0], "params": list(range(len(twins)))}
    state = {i: copy.deepcopy(training.optimizer.state[w]) for i, w in enumerate(weights)}
    optimizer = torch.optim.AdamW(twins)
    optimizer.load_state_dict({"state": state, "param_groups": [{**group, "fused": None, "foreach": False}]})
    for twin, g in zip(twins, gradient, strict=True):
        twin.grad = g.clone()
    optimizer.step()
    return [twin.detach() for twin in twins]


def features(instruments: Instruments, prompt: Any) -> Tensor:
    """All features of a prompt, none of our code between the model and them."""
    hidden = alone.hidden_alone(instruments.reader.model, prompt.ids, LAYER, prompt.read)
    return torch.relu(hidden @ instruments.reader.dictionary.W_enc - THRESHOLD)


@pytest.mark.parametrize("method", ["gradient", "replay"])
def test_all_features_together_are_the_score(robust: tuple[Training, Instruments], method: Any) -> None:
    training, instruments = robust
    found = judged(training, watching(instruments, 48), method)
    assert len(found[0].watched) > 30
    w = shifts(found, "coefficient")
    for name, total in (("shift_X", "S_X"), ("shift_Y", "S_Y")):
        parts = shifts(found, name) * w
        scores = torch.tensor([getattr(row, total) for row in found], dtype=torch.float64)
        assert parts.sum(1).numpy() == pytest.approx(scores.numpy(), rel=1e-3, abs=1e-6)
        assert float((parts.abs().sum(1) / scores.abs()).median()) > 1.05, "no single feature makes it"


def test_what_does_not_fit_is_taken_for_every_portion(robust: tuple[Training, Instruments]) -> None:
    training, instruments = robust
    size = DataAudit(training, instruments, "gradient", ["a"], [1]).parameters.size
    fits = 2 * 16 * size / 2**30
    found = {}
    for part in (10.0, 1.5, 0.3):
        here = watching(instruments, 16, part * fits)
        watched = WatchedShifts.of(here.frame, here.plan.rows, here.plan.weights, leading_features(here.policy, 16))
        kept = kept_gradients(here.reader, watched, DataAudit(training, here, "gradient", ["a"], [1]).parameters)
        found[kept] = shifts(judged(training, here, "gradient"), "shift_X")
    whole, halves, some = found[16, torch.float32], found[16, torch.bfloat16], found[4, torch.bfloat16]
    scale = whole.abs().mean()
    assert float((halves - whole).abs().max() / scale) < 0.05
    assert not torch.equal(halves, whole)
    assert torch.equal(some[:, :4], halves[:, :4])
    assert float((some[:, 4:] - whole[:, 4:]).abs().max() / scale) < 1e-3


def test_interference_is_over_the_watched_features(robust: tuple[Training, Instruments]) -> None:
    training, instruments = robust
    policy = instruments.policy
    found = judged(training, instruments, "gradient")
    assert len({row.intended for row in found}) > 1, "prompts differ"
    for row in found:
        parts = {one.feature: abs((one.shift_X + one.shift_Y) * one.coefficient) for one in row.watched}
        outside = sum(size for feature, size in parts.items() if feature not in row.intended)
        assert row.watched_interference == pytest.approx(outside / sum(parts.values()), rel=1e-9)
        assert row.watched_dominant == max(parts, key=lambda feature: parts[feature])
        assert row.dominant_unintended == (row.watched_dominant not in row.intended)
        assert set(row.intended) <= set(policy.feature_ids)
    assert any(0 < row.watched_interference < 1 for row in found)


def test_without_watched_features_nothing_is_said_of_them(robust: tuple[Training, Instruments]) -> None:
    training, instruments = robust
    for method in ("gradient", "replay"):
        for row in judged(training, watching(instruments, 0), method):
            assert row.watched == row.intended == ()
            assert np.isnan(row.watched_interference)
            assert (row.watched_dominant, row.dominant_unintended) == (-1, False)
            assert bool(row.features) == (method == "replay")


def test_rows_whose_prompt_is_not_read_have_no_interference(tmp_path: Path) -> None:
    training, instruments = opened(tmp_path, "robust", warm_up=1)
    config = instruments.bench.config
    blind = config.model_copy(update={"probes": config.probes.model_copy(update={"own_prompts": False})})
    instruments = replace(instruments, bench=replace(instruments.bench, config=blind))
    (row,) = DataAudit(training, instruments, "replay", ["a"], [1]).judge([0])
    assert np.isnan(row.watched_interference)
    assert row.watched_dominant >= 0
    assert not row.dominant_unintended


def test_the_papers_step_too(tmp_path: Path) -> None:
    """All parameters, log-probability, no intercept: the parts still make the whole, by either method alike."""
    training, instruments = opened(tmp_path, "paper")
    instruments = watching(instruments, 48)
    cheap, exact = (judged(training, instruments, method) for method in ("gradient", "replay"))
    for name, total in (("shift_X", "S_X"), ("shift_Y", "S_Y")):
        parts = (shifts(cheap, name) * shifts(cheap, "coefficient")).sum(1)
        scores = torch.tensor([getattr(row, total) for row in cheap], dtype=torch.float64)
        assert parts.numpy() == pytest.approx(scores.numpy(), rel=1e-3, abs=1e-9)
        whole, truth = shifts(cheap, name), shifts(exact, name)
        assert float((whole - truth).norm() / truth.norm()) < 0.1
        assert float((whole.roll(1, 0) - truth).norm() / truth.norm()) > 0.3, "rows differ"
