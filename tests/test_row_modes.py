"""Gradients by row of everything that people train, through SFTTrainer, against one backward for each row alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import TrainerCallback

from smda_monitor.instruments.captured_rows import CapturedRow
from smda_monitor.instruments.parameters import trained_parameters
from smda_monitor.instruments.row_capture import RowCapture
from smda_monitor.maths.row_gradients import RowGradients

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(base: Callable[[], Any], **lora: Any) -> Any:
    """An adapter whose every weight is random, so that every gradient is alive."""
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(
        base(), LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **{"target_modules": ALL, **lora})
    )
    return model


def untied() -> Any:
    return tiny.tiny_llama(tied=False)


def with_biases() -> Any:
    """A Llama whose attention and feed-forward layers have biases."""
    from transformers import LlamaConfig, LlamaForCausalLM

    small: Any = tiny.tiny_llama()
    config = LlamaConfig(**{**small.config.to_dict(), "attention_bias": True, "mlp_bias": True})
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def gpt2() -> Any:
    model = tiny.tiny_gpt2()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def gemma2() -> Any:
    """Scaled embeddings, capped logits, a norm as a block's last layer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=None, eos_token_id=2, initializer_range=0.2,
        final_logit_softcapping=5.0, attn_implementation="eager",
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


def cohere() -> Any:
    """Logits times a scale, a LayerNorm without bias."""
    from transformers import CohereConfig, CohereForCausalLM

    torch.manual_seed(0)
    config = CohereConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=2, initializer_range=0.2,
        logit_scale=0.3, use_qk_norm=True,
    )  # fmt: skip
    return CohereForCausalLM(config).eval()


def phi() -> Any:
    """A head with a bias."""
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=0, bos_token_id=None, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    return PhiForCausalLM(config).eval()


def adalora() -> Any:
    """Its values are random too, two of them taken away."""
    from peft import AdaLoraConfig, get_peft_model

    told: dict[str, Any] = {"target_modules": ALL, "total_step": 10, "init_r": 4}
    model: Any = get_peft_model(tiny.tiny_llama(), AdaLoraConfig(task_type="CAUSAL_LM", **told))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_E" in name:
            torch.nn.init.normal_(parameter)
            parameter.data[:2] = 0
    return model


def train_all(model: Any) -> Any:
    model.requires_grad_(True)
    return model


MODES: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: adapted(tiny.tiny_llama),
    "rsLoRA": lambda: adapted(tiny.tiny_llama, use_rslora=True),
    "DoRA": lambda: adapted(tiny.tiny_llama, use_dora=True),
    "AdaLoRA": adalora,
    "LoRA with its own bias": lambda: adapted(with_biases, lora_bias=True),
    "embeddings and head": lambda: adapted(untied, modules_to_save=["embed_tokens", "lm_head"]),
    "tied embeddings and head": lambda: adapted(
        tiny.tiny_llama, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "norms": lambda: adapted(tiny.tiny_llama, modules_to_save=["norm", "input_layernorm"]),
    "every bias": lambda: adapted(with_biases, bias="all"),
    "every bias, GPT-2": lambda: adapted(gpt2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, bias="all"),
    "DoRA, GPT-2": lambda: adapted(gpt2, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True),
    "full, tied": lambda: train_all(tiny.tiny_llama()),
    "full, untied": lambda: train_all(untied()),
    "full, GPT-2": lambda: train_all(gpt2()),
    "full, Gemma 2": lambda: train_all(gemma2()),
    "full, Cohere": lambda: train_all(cohere()),
    "full, Phi": lambda: train_all(phi()),
}

CHECKPOINTING: dict[str, dict[str, Any]] = {
    "kept": {"gradient_checkpointing": False},
    "reentrant": {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "not reentrant": {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
}


@dataclass
class Step:
    """One step as the capture and the optimizer saw it."""

    rows: list[CapturedRow]
    gradients: RowGradients
    clipped: Tensor
    weights: list[Tensor]


class Watch(TrainerCallback):
    """Takes the rows after the optimizer's step, when the weights have moved."""

    def __init__(self, per_token: int | None = None) -> None:
        self.steps: list[Step] = []
        self.per_token = per_token

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.parameters = trained_parameters(kwargs["model"])
        if self.per_token is not None:
            told = tuple(replace(tensor, per_token=self.per_token) for tensor in self.parameters.tensors)
            self.parameters = replace(self.parameters, tensors=told)
        self.capture = RowCapture(kwargs["model"], self.parameters)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        weights = self.parameters.weights
        self.clipped = torch.cat(
            [torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights]
        )
        self.weights = [w.detach().clone() for w in weights]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        rows, _, gradients = self.capture.take()
        self.steps.append(Step(rows, gradients, self.clipped.clone(), self.weights))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.capture.remove()


def truth(model: Any, step: Step, labels: dict[tuple[int, ...], list[int]]) -> Tensor:
    """(n, p) each row alone, without padding, on a model that no trainer has touched."""
    weights = trained_parameters(model).weights
    with torch.no_grad():
        for mine, then in zip(weights, step.weights, strict=True):
            mine.copy_(then)
    losses, tokens = [], 0
    for row in step.rows:
        target = torch.tensor(labels[tuple(row.ids)][1:])
        logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1]
        losses.append(nn.functional.cross_entropy(logits, target, reduction="sum"))
        tokens += int((target != -100).sum())
    found = []
    for loss in losses:
        gradients = torch.autograd.grad(loss / tokens, weights, allow_unused=True)
        found.append(
            torch.cat(
                [
                    torch.zeros_like(w).flatten() if g is None else g.flatten()
                    for w, g in zip(weights, gradients, strict=True)
                ]
            )
        )
    return torch.stack(found)


def check(folder: Path, model: Any, per_token: int | None = None, tolerance: float = 1e-5, **arguments: Any) -> Watch:
    twin = copy.deepcopy(model).eval()
    watch = Watch(per_token)
    trainer = tiny.tiny_trainer(
        folder, [watch], model=model, max_steps=2, max_grad_norm=0.0, gradient_accumulation_steps=2, **arguments
    )
    trainer.train()
    labels = {tuple(row["input_ids"]): row["labels"] for row in trainer.train_dataset}
    assert len(watch.steps) == 2
    for step in watch.steps:
        found = step.gradients.dense(0, step.gradients.size)
        expected = truth(twin, step, labels)
        assert found.shape == expected.shape == (4, watch.parameters.size)
        for tensor in watch.parameters.tensors:
            mine, theirs = found[:, tensor.start : tensor.stop], expected[:, tensor.start : tensor.stop]
            error = float((mine - theirs).norm() / theirs.norm().clamp(min=1e-3 * float(expected.norm())))
            assert error < tolerance, f"{tensor.name} ({tensor.captured}): {error:.1e}"
        assert float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max()) < tolerance
        assert float((found.sum(0) - step.clipped).norm() / step.clipped.norm()) < tolerance
        assert float((found[0] - found[1]).norm() / found[0].norm()) > 0.1, "rows differ"
    return watch


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_those_of_each_row_alone(tmp_path: Path, mode: str) -> None:
    watch = check(tmp_path, MODES[mode](), gradient_checkpointing=False)
    trained = {how for tensor in watch.parameters.tensors for how in tensor.captured}
    assert trained
    step = watch.steps[0]
    whole = step.gradients.dense(0, step.gradients.size)
    alive = [t.name for t in watch.parameters.tensors if bool(whole[:, t.start : t.stop].any())]
    assert len(alive) > 0.8 * len(watch.parameters.tensors), "what is compared is not zero"


@pytest.mark.parametrize("checkpointing", [name for name in CHECKPOINTING if name != "kept"])
@pytest.mark.parametrize("mode", ["full, tied", "full, GPT-2", "full, Gemma 2", "DoRA", "AdaLoRA", "every bias"])
def test_under_checkpointing(tmp_path: Path, mode: str, checkpointing: str) -> None:
    check(tmp_path, MODES[mode](), **CHECKPOINTING[checkpointing])


@pytest.mark.parametrize(
    "mode", ["full, tied", "full, GPT-2", "full, Gemma 2", "full, Phi", "DoRA", "AdaLoRA", "every bias"]
)
def test_free_of_padding(tmp_path: Path, mode: str) -> None:
    # Attention sums over more tokens, masked or not, than each row alone.
    check(tmp_path, MODES[mode](), tolerance=1e-4, padding_free=True, max_length=None)


@pytest.mark.parametrize("per_token", [0, 1], ids=["all formed", "all as factors"])
@pytest.mark.parametrize("mode", ["full, tied", "full, GPT-2", "full, Gemma 2", "full, Phi", "DoRA"])
def test_however_they_are_kept(tmp_path: Path, mode: str, per_token: int) -> None:
    watch = check(tmp_path, MODES[mode](), per_token)
    gradients = watch.steps[0].gradients
    kept = sum(stop - start for start, stop in gradients.formed)
    assert kept == gradients.size if per_token == 0 else kept < gradients.size / 2
    assert bool(gradients.pieces) == bool(per_token)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=3, max_size=3), st.integers(0, 10**6))
def test_a_fully_masked_row_has_no_gradient_and_rows_add_up(carries: list[list[bool]], seed: int) -> None:
    """The law, under TRL's fused head with everything trained, whatever is masked."""
    from trl.trainer.utils import add_fused_lm_head

    model = train_all(tiny.tiny_llama()).train()
    add_fused_lm_head(model)
    capture = RowCapture(model, trained_parameters(model))
    ids = torch.randint(1, tiny.VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(seed))
    labels = ids.masked_fill(~torch.tensor(carries), -100)
    (-model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs.sum() / 10).backward()
    _, losses, gradients = capture.take()
    capture.remove()
    whole = gradients.dense(0, gradients.size)
    for row, mask, loss in zip(whole, carries, losses, strict=True):
        assert bool(row.any()) == any(mask[1:])
        assert (loss == loss) == any(mask[1:])
    total = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert float((whole.sum(0) - total).norm()) <= 1e-5 * float(total.norm())
