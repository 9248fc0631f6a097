"""Rows captured from the trainer's own forward and backward, against each row alone on a fresh copy of the model."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import TrainerCallback

from smda_monitor.errors import MeasurementError
from smda_monitor.instruments.captured_rows import CapturedRow, row_hash
from smda_monitor.instruments.causal import inner_causal
from smda_monitor.instruments.gradient_tap import GradientTap
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters
from smda_monitor.instruments.row_capture import RowCapture
from smda_monitor.instruments.row_layout import prepared_rows

IGNORED = -100


def row_loss(model: Any, ids: list[int], labels: list[int]) -> tuple[Tensor, int]:
    """Summed loss of one row without padding, and the tokens that carry it."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    target = torch.tensor(labels[1:])
    total = nn.functional.cross_entropy(logits[:-1], target, ignore_index=IGNORED, reduction="sum")
    return total, int((target != IGNORED).sum())


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def taken(capture: RowCapture) -> tuple[list[CapturedRow], list[float], Tensor]:
    """What `take` hands over, gradients as one (n, p) matrix."""
    rows, losses, gradients = capture.take()
    assert gradients.rows == len(rows)
    return rows, losses, gradients.dense(0, gradients.size)


@dataclass
class Step:
    """What the capture and the optimizer saw of one step, and the weights it started from."""

    rows: list[CapturedRow]
    losses: list[float]
    gradients: Tensor
    clipped: Tensor
    weights: list[Tensor]


class Watch(TrainerCallback):
    """Takes the captured rows just before the optimizer's step."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.hooks: list[int] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.hooks.append(hook_count(model))
        self.parameters = trained_parameters(model)
        self.capture = RowCapture(model, self.parameters)
        self.hooks.append(hook_count(model))

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        weights = self.parameters.weights
        clipped = flat(w.grad for w in weights)
        self.steps.append(Step(*taken(self.capture), clipped, [w.detach().clone() for w in weights]))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.capture.remove()
        self.hooks.append(hook_count(kwargs["model"]))


def hook_count(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


SETTINGS = {
    "trl's defaults": {},
    "accumulation, reentrant, biting clip": {
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
        "max_grad_norm": 0.05,
    },
    "accumulation, not reentrant, all tokens": {
        "gradient_accumulation_steps": 3,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "completion_only_loss": False,
        "max_grad_norm": 0.0,
    },
    "no checkpointing, three to a batch": {"gradient_checkpointing": False, "per_device_train_batch_size": 3},
    "free of padding": {"padding_free": True, "max_length": None, "gradient_accumulation_steps": 2},
    "free of padding, to a multiple, all tokens": {
        "padding_free": True,
        "max_length": None,
        "pad_to_multiple_of": 64,
        "completion_only_loss": False,
    },
    "packed": {"packing": True, "max_length": 90, "max_grad_norm": 0.05},
    "packed, all tokens, no checkpointing": {
        "packing": True,
        "max_length": 90,
        "completion_only_loss": False,
        "gradient_checkpointing": False,
    },
}


@pytest.fixture(scope="module", params=SETTINGS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Watch, Any, str]:
    watch = Watch()
    folder = tmp_path_factory.mktemp("trained")
    settings: Any = SETTINGS[request.param]
    trainer = tiny.tiny_trainer(folder, [watch], max_steps=3, **settings)
    trainer.train()
    return watch, trainer, request.param


def labels_of(trainer: Any) -> dict[tuple[int, ...], list[int]]:
    """The labels of every prepared row, by its tokens."""
    return {tuple(row["input_ids"]): row["labels"] for row in prepared_rows(trainer.train_dataset)}


def test_gradients_and_losses_are_those_of_each_row_alone(trained: tuple[Watch, Any, str]) -> None:
    watch, trainer, _ = trained
    labels = labels_of(trainer)
    model = tiny.tiny_lora(tiny.tiny_llama())
    weights = trained_parameters(model).weights
    assert len(watch.steps) == 3
    for step in watch.steps:
        with torch.no_grad():
            for mine, then in zip(weights, step.weights, strict=True):
                mine.copy_(then)
        counted = [row_loss(model, row.ids, labels[tuple(row.ids)]) for row in step.rows]
        in_window = sum(tokens for _, tokens in counted)
        for i, (total, tokens) in enumerate(counted):
            expected = flat(torch.autograd.grad(total / in_window, weights))
            assert relative(step.gradients[i], expected) < 1e-5
            assert step.losses[i] == pytest.approx(total.item() / tokens, rel=1e-5)
            assert step.rows[i].tokens == tokens
        assert relative(step.gradients[0], step.gradients[1]) > 0.1, "rows differ"


def test_mistake_8_the_loss_is_over_the_tokens_that_the_trainer_counts(trained: tuple[Watch, Any, str]) -> None:
    watch, trainer, name = trained
    step, labels = watch.steps[0], labels_of(trainer)
    model = tiny.tiny_lora(tiny.tiny_llama())
    for row, found in zip(step.rows, step.losses, strict=True):
        (own, tokens), (whole, length) = (
            row_loss(model, row.ids, labels[tuple(row.ids)]),
            row_loss(model, row.ids, row.ids),
        )
        assert found == pytest.approx(own.item() / tokens, rel=1e-5)
        if "all tokens" in name:
            assert tokens == length == len(row.ids) - 1
        else:
            assert abs(found - whole.item() / length) > 1e-2, "all tokens would give another loss"


def test_the_clipped_sum_is_what_the_optimizer_sees(trained: tuple[Watch, Any, str]) -> None:
    watch, trainer, name = trained
    limit = trainer.args.max_grad_norm
    for step in watch.steps:
        total = step.gradients.double().sum(0)
        factor = min(1.0, limit / (float(total.norm()) + 1e-6)) if limit > 0 else 1.0
        assert relative(factor * total, step.clipped.double()) < 1e-5
        if "biting" in name:
            assert factor < 0.9


def test_rows_are_the_prepared_ones_without_padding(trained: tuple[Watch, Any, str]) -> None:
    watch, trainer, name = trained
    labels = labels_of(trainer)
    args = trainer.args
    count = args.per_device_train_batch_size * args.gradient_accumulation_steps
    for step in watch.steps:
        assert len(step.rows) == len(step.losses) == len(step.gradients)
        assert len(step.rows) > count if args.packing else len(step.rows) == count
        for row in step.rows:
            carries = [label != IGNORED for label in labels[tuple(row.ids)]]
            assert row.first_label == carries.index(True)
            assert (row.first_label == 0) == ("all tokens" in name)
    lengths = {len(row.ids) for step in watch.steps for row in step.rows}
    assert len(lengths) > 1, "some rows were padded"


def test_hooks_are_gone_after_remove(trained: tuple[Watch, Any, str]) -> None:
    before, during, after = trained[0].hooks
    assert during >= before + 2 + len(trained[0].parameters.modules)
    assert after == before


# Below: a bare loop, for what the trainer does not do.


def batch(side: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Three rows of different lengths; the last one carries no loss."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    labels = torch.full((3, 9), IGNORED)
    for b, length in enumerate((9, 5, 7)):
        at = slice(0, length) if side == "right" else slice(9 - length, 9)
        ids[b, at] = torch.randint(4, 300, (length,), generator=generator)
        mask[b, at] = 1
        if b < 2:
            labels[b, at] = torch.where(torch.arange(length) < 2, IGNORED, ids[b, at])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


QV = ("q_proj", "v_proj")
ALL = (*QV, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def bench(dropout: float = 0.0, targets: tuple[str, ...] = QV) -> tuple[Any, TrainedParameters, RowCapture]:
    model: Any = tiny.tiny_lora(tiny.tiny_llama(), dropout, targets=targets)
    model.train()
    parameters = trained_parameters(model)
    return model, parameters, RowCapture(model, parameters)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(side: str) -> None:
    model, parameters, capture = bench()
    inputs = batch(side)
    (4 * model(**inputs, use_cache=False).loss).backward()
    rows, losses, found = taken(capture)
    tokens = 7 + 3  # of the whole batch: the loss's denominator
    for b in range(2):
        real = inputs["attention_mask"][b].bool()
        ids, labels = inputs["input_ids"][b][real].tolist(), inputs["labels"][b][real].tolist()
        assert rows[b] == CapturedRow(ids, 2, (7, 3)[b])
        if side == "right":
            total, _ = row_loss(model, ids, labels)
            expected = flat(torch.autograd.grad(4 * total / tokens, parameters.weights))
            assert relative(found[b], expected) < 1e-5
    assert rows[2] == CapturedRow(inputs["input_ids"][2][inputs["attention_mask"][2].bool()].tolist(), -1, 0)
    assert not bool(found[2].any()), "a row that carries no loss has no gradient"
    assert relative(found.sum(0), flat(w.grad for w in parameters.weights)) < 1e-5
    assert all(loss != loss for loss in losses), "without TRL's head the loss of a row is unknown, not zero"


def test_of_a_conversation_the_last_answer_counts() -> None:
    model, _, capture = bench()
    inputs = batch("right")
    inputs["labels"][0, 4:6] = -100  # an answer, two tokens of a user's, and another answer
    model(**inputs, use_cache=False).loss.backward()
    rows, _, _ = taken(capture)
    assert (rows[0].first_label, rows[0].tokens) == (6, 5), "both answers carry loss"
    assert rows[1].first_label == 2
    capture.remove()


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_dropout_is_the_trainers_own(reentrant: bool | None) -> None:
    """With dropout a row alone is another draw, but the rows' sum is the gradient, also where a forward is replayed, be
    it before a layer's backward or, for a block's last layer, after it."""
    model, parameters, capture = bench(dropout=0.3, targets=ALL)
    if reentrant is not None:
        inner_causal(model).gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
        model.enable_input_require_grads()
    torch.manual_seed(0)
    for seed in (0, 1):
        model(**batch(seed=seed), use_cache=False).loss.backward()
    rows, _, found = taken(capture)
    assert len(rows) == 6
    assert relative(found.sum(0), flat(w.grad for w in parameters.weights)) < 1e-5
    capture.remove()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing_saves_what_it_is_there_to_save(checkpointing: bool) -> None:
    """After a forward the inputs of a checkpointed layer's parts are held by nobody."""
    model: Any = tiny.tiny_llama().train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    capture = RowCapture(model, trained_parameters(model))
    held: list[StorageWeakRef] = []
    inside = model.model.layers[1].mlp.down_proj
    inside.register_forward_pre_hook(lambda _, args: held.append(StorageWeakRef(args[0].untyped_storage())))
    loss = model(**batch(), use_cache=False).loss
    assert [storage.expired() for storage in held] == [checkpointing]
    loss.backward()
    _, _, found = taken(capture)
    assert relative(found.sum(0), flat(w.grad for w in model.parameters())) < 1e-5
    capture.remove()


def test_bf16_autocast_adds_up_to_its_rounding() -> None:
    model, parameters, capture = bench()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch(), use_cache=False).loss
    loss.backward()
    _, _, found = taken(capture)
    assert found.dtype == torch.float32
    assert relative(found.sum(0), flat(w.grad for w in parameters.weights)) < 2e-2
    capture.remove()


def test_the_trainers_gradient_is_not_changed() -> None:
    model, parameters, capture = bench()
    model(**batch(), use_cache=False).loss.backward()
    with_capture = flat(w.grad for w in parameters.weights)
    capture.remove()
    model.zero_grad()
    model(**batch(), use_cache=False).loss.backward()
    assert torch.equal(flat(w.grad for w in parameters.weights), with_capture)


def test_measurements_in_between_are_not_captured() -> None:
    model, _, capture = bench()
    model(**batch(seed=0), use_cache=False).loss.backward()
    with torch.no_grad():
        model(**batch(seed=1), use_cache=False)
    model.eval()
    model(**batch(seed=2), use_cache=False).loss.backward()
    model.train()
    rows, _, found = taken(capture)
    assert [row.ids[:3] for row in rows] == [ids[:3].tolist() for ids in batch(seed=0)["input_ids"]]
    assert len(found) == 3
    capture.remove()


def test_take_forgets_and_says_when_nothing_was_seen() -> None:
    model, _, capture = bench()
    with pytest.raises(MeasurementError, match="rows of the step: found none"):
        capture.take()
    model(**batch(), use_cache=False).loss.backward()
    capture.take()
    with pytest.raises(MeasurementError, match="rows of the step: found none"):
        capture.take()
    model(**batch(), use_cache=False).loss.backward()
    capture.clear()
    with pytest.raises(MeasurementError, match="rows of the step: found none"):
        capture.take()
    capture.remove()


def test_a_forward_without_backward_is_not_taken_for_rows_without_gradient() -> None:
    model, _, capture = bench()
    model(**batch(), use_cache=False)
    model(**batch(seed=1), use_cache=False).loss.backward()
    with pytest.raises(MeasurementError, match="no gradient for 1 of 2 micro-batches"):
        capture.take()
    capture.remove()


def test_a_batch_without_token_ids_is_refused() -> None:
    model, _, capture = bench()
    labels = torch.tensor([[1, 2, 3]])
    model(inputs_embeds=torch.zeros(1, 3, 32), labels=labels, use_cache=False).loss.backward()  # training goes on
    with pytest.raises(MeasurementError, match=r"training batch: found .*inputs_embeds.*input_ids"):
        capture.take()
    capture.clear()
    model(**batch(), use_cache=False).loss.backward()
    assert len(capture.take()[0]) == 3
    capture.remove()


def test_a_layer_that_runs_more_than_once_adds_up() -> None:
    model, parameters, capture = bench()
    layer = model.get_submodule(parameters.modules[0].name)
    hidden = torch.randn(3, 4, layer.in_features)
    loss = model(**batch(), use_cache=False).loss
    (loss + (layer(hidden).sum() + layer(2 * hidden).square().sum()) / 100).backward()
    _, _, found = taken(capture)
    assert relative(found.sum(0), flat(w.grad for w in parameters.weights)) < 1e-5
    capture.remove()


@pytest.mark.parametrize("shape", [(2, 4, 32), (12, 32)])
def test_a_layer_that_does_not_run_on_the_rows_is_refused_after_the_backward(shape: tuple[int, ...]) -> None:
    model, parameters, capture = bench()
    layer = model.get_submodule(parameters.modules[0].name)
    (model(**batch(), use_cache=False).loss + layer(torch.randn(shape)).sum()).backward()
    with pytest.raises(MeasurementError, match=r"q_proj.lora_A.default called on tensors of shape .*3 rows first"):
        capture.take()
    capture.remove()


class Pair(nn.Module):
    """A trained module that gives two tensors."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.weight, x


class First(nn.Module):
    """Passes the first of two tensors on."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.pair(x)[0]
        return found


def test_a_module_that_gives_no_tensor_is_refused_after_the_backward() -> None:
    model: Any = tiny.tiny_llama().train()
    model.model.norm = First(Pair(model.model.norm))
    parameters = trained_parameters(model)
    capture = RowCapture(model, parameters)
    model(**batch(), use_cache=False).loss.backward()
    with pytest.raises(MeasurementError, match=r"model\.norm\.pair gives tuple"):
        capture.take()
    capture.remove()
    with GradientTap(parameters), pytest.raises(MeasurementError, match=r"model\.norm\.pair gives tuple"):
        model(**batch(), use_cache=False)


def test_a_second_backward_is_refused() -> None:
    model, _, capture = bench()
    loss = model(**batch(), use_cache=False).loss
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(MeasurementError, match="gradients by row: found two of"):
        capture.take()
    capture.remove()


def test_a_checkpointed_forward_whose_backward_comes_late_is_refused() -> None:
    model, _, capture = bench()
    inner_causal(model).gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    losses = [model(**batch(seed=seed), use_cache=False).loss for seed in (0, 1)]
    (losses[0] + losses[1]).backward()
    with pytest.raises(MeasurementError, match="was not run again"):
        capture.take()
    capture.remove()


def test_after_remove_nothing_is_captured() -> None:
    model, _, capture = bench()
    capture.remove()
    model(**batch(), use_cache=False).loss.backward()
    with pytest.raises(MeasurementError, match="found none"):
        capture.take()


def test_row_hash_is_of_the_token_ids() -> None:
    ids = [0, 5, 300, 70_000]
    packed = struct.pack("<4q", *ids)
    assert row_hash(ids) == hashlib.sha256(packed).hexdigest()[:16]
    assert CapturedRow(ids, 1, 2).hash == row_hash(ids) == CapturedRow(ids, 3, 1).hash
    assert row_hash(ids) != row_hash(ids[::-1])
    assert row_hash([]) != row_hash([0])
