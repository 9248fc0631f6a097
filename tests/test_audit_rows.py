"""`smda audit`'s figures on tiny models: by gradient as by replay, and by replay as torch's own step says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from scipy.stats import spearmanr
from torch import Tensor

from smda_monitor.commands.audit_rows import DataAudit
from smda_monitor.commands.training import Training, Update, open_trainer, open_training
from smda_monitor.errors import ConfigError
from smda_monitor.instruments.assemble import Instruments, assemble, open_bench
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.quiet import quiet
from smda_monitor.records.config import TrainingConfig
from smda_monitor.records.row_audit import RowAudit

ROWS = 12
ARGUMENTS = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "use_cpu": True}


def opened(
    folder: Path, update: Update, warm_up: int = 3, model: Any = None, **arguments: Any
) -> tuple[Training, Instruments]:
    """A training of the tiny model with LoRA, and the instruments on its model as it was before."""
    model = model if model is not None else tiny.tiny_lora(tiny.tiny_llama())
    tokenizer = tiny.tiny_tokenizer()
    preset = {"preset": update}
    found = tiny.tiny_config(folder)
    config = load_config({**found, "policy": {**found["policy"], **preset}})
    policy = open_bench(config, model, tokenizer).fit()
    known = TrainingConfig(arguments={**ARGUMENTS, **arguments})
    training = open_training(known, update, warm_up, model, tokenizer, tiny.tiny_rows(ROWS), folder / "trainer")
    return training, assemble(open_bench(config, training.model, tokenizer), policy)


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Instruments]:
    return opened(tmp_path_factory.mktemp("robust"), "robust")


def judged(training: Training, instruments: Instruments, method: Any) -> list[RowAudit]:
    audit = DataAudit(training, instruments, method, [f"mine-{i}" for i in range(ROWS)], range(1, ROWS + 1))
    return [*audit.judge(range(5)), *audit.judge(range(5, ROWS))]


def column(found: list[RowAudit], name: str) -> Tensor:
    return torch.tensor([one.entry.push[name] for one in found], dtype=torch.float64)


def state_of(training: Training) -> list[Tensor]:
    weights = [w.detach().clone() for w in training.model.parameters()]
    return [*weights, *(t.clone() for s in training.optimizer.state.values() for t in s.values())]


def test_by_gradient_as_by_replay(robust: tuple[Training, Instruments]) -> None:
    training, instruments = robust
    before = state_of(training)
    exact, cheap = judged(training, instruments, "replay"), judged(training, instruments, "gradient")
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(training), strict=True)), "bit for bit"
    for name in ("S_Y", "mass.harmful", "contrast.benign"):
        expected, found = column(exact, name), column(cheap, name)
        assert spearmanr(expected, found).statistic > 0.98
        assert float(((found - expected) / expected).abs().median()) < 0.05
    assert spearmanr(column(exact, "S_X"), column(cheap, "S_X")).statistic > 0.9
    own = [torch.tensor([one.entry.own_push for one in found]) for found in (exact, cheap)]
    assert spearmanr(*own).statistic > 0.97
    for one, other in zip(exact, cheap, strict=True):
        assert one.entry.row_hash == other.entry.row_hash
        assert one.entry.loss == pytest.approx(other.entry.loss, rel=1e-5)
        assert one.entry.gradient_norm == pytest.approx(other.entry.gradient_norm, rel=1e-4)
        assert one.line == other.line == int(one.entry.row_id.removeprefix("mine-")) + 1
        assert one.features
        assert len(other.features) == 16, "the watched ones"
    assert float(column(exact, "mass.harmful").std()) > 0, "rows differ"


def test_replay_is_torchs_own_step(robust: tuple[Training, Instruments]) -> None:
    """One row from scratch: its part of an average batch's loss by autograd, torch's AdamW on a copy, two snapshots."""
    training, instruments = robust
    (found,) = [one for one in judged(training, instruments, "replay") if one.line == 4]
    weights = [w for w in training.model.parameters() if w.requires_grad]
    training.model.train()
    losses = answer_losses(training, 3)
    gradient = torch.autograd.grad(losses.sum() / training.tokens, weights)  # type: ignore[operator]
    norm = torch.cat([g.reshape(-1) for g in gradient]).norm().item()
    assert found.entry.gradient_norm == pytest.approx(norm, rel=1e-4)
    clip = training.max_norm / (norm + 1e-6)
    assert clip < 1, "clipping bites"
    assert found.entry.loss == pytest.approx(losses.mean().item(), rel=1e-4)
    masses = []
    for scale in (1.0, 0.0):
        twins = [w.detach().clone().requires_grad_() for w in weights]
        group = {**training.optimizer.param_groups[0], "params": list(range(len(twins)))}
        state = {i: copy.deepcopy(training.optimizer.state[w]) for i, w in enumerate(weights)}
        optimizer = torch.optim.AdamW(twins)
        optimizer.load_state_dict({"state": state, "param_groups": [{**group, "fused": None, "foreach": False}]})
        for twin, g in zip(twins, gradient, strict=True):
            twin.grad = scale * clip * g
        optimizer.step()
        masses.append(masses_at(training, instruments, twins))
    expected = float(instruments.plan.targets.cotangent_y @ (masses[0] - masses[1]))
    assert pytest.approx(expected, rel=2e-3) == found.S_Y


def answer_losses(training: Training, number: int) -> Tensor:
    row = training.rows[number]
    ids, answer = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"]) != -100
    logits = training.model(input_ids=ids).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")[answer[1:]]


def masses_at(training: Training, instruments: Instruments, values: list[Tensor]) -> Tensor:
    """The probes' mass with other trained weights, which are put back."""
    weights = [w for w in training.model.parameters() if w.requires_grad]
    before = [w.detach().clone() for w in weights]
    with torch.no_grad(), quiet(training.model):
        for w, value in zip(weights, values, strict=True):
            w.copy_(value)
        found = instruments.reader.measure(instruments.tokens(instruments.plan.chosen)).readings.mass
        for w, value in zip(weights, before, strict=True):
            w.copy_(value)
    return found


@pytest.mark.parametrize("name", ["packing", "padding_free"])
def test_rows_in_one_sequence_cannot_be_left_out(tmp_path: Path, name: str) -> None:
    config = TrainingConfig(arguments={**ARGUMENTS, "max_length": None if name == "padding_free" else 64, name: True})
    with pytest.raises(ConfigError, match=rf"training\.arguments\.{name}: found rows in one sequence"):
        open_trainer(config, tiny.tiny_lora(tiny.tiny_llama()), tiny.tiny_tokenizer(), tiny.tiny_rows(ROWS), tmp_path)


def test_papers_step_is_taken_in_float32(tmp_path: Path) -> None:
    """Of a model that was loaded in bfloat16 too, where it would be rounded away."""
    model = tiny.tiny_lora(tiny.tiny_llama()).bfloat16()
    training, instruments = opened(tmp_path, "paper", model=model, bf16=True)
    assert {w.dtype for w in training.model.parameters()} == {torch.float32}
    assert not training.trainer.args.bf16
    found = judged(training, instruments, "replay")
    assert all(abs(one.entry.push["S_Y"]) > 0 for one in found)


def test_papers_step_is_plain_sgd_on_the_answers_mean_loss(tmp_path: Path) -> None:
    training, instruments = opened(tmp_path, "paper")
    assert all(w.requires_grad for w in training.model.parameters())
    assert not hasattr(training.model, "peft_config"), "the adapter is part of the model"
    start = [w.detach().clone() for w in training.model.parameters()]
    found = judged(training, instruments, "gradient")
    exact = judged(training, instruments, "replay")
    assert all(torch.equal(a, b) for a, b in zip(start, training.model.parameters(), strict=True))
    assert not training.model.training
    assert spearmanr(column(found, "S_Y"), column(exact, "S_Y")).statistic > 0.98
    losses = answer_losses(training, 2)
    gradient = torch.autograd.grad(losses.mean(), list(training.model.parameters()))
    norm = torch.cat([g.reshape(-1) for g in gradient]).norm().item()
    assert found[2].entry.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert found[2].entry.loss == pytest.approx(losses.mean().item(), rel=1e-4)
