"""Which parameters train, where they lie, and which models are refused by the name of their first wrong parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from smda_monitor.errors import PrerequisiteError
from smda_monitor.instruments.parameters import trained_parameters


def adapted(base: Callable[[], Any] = tiny.tiny_llama, **lora: Any) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, task_type="CAUSAL_LM", **{"target_modules": ["q_proj", "v_proj"], **lora})
    return get_peft_model(base(), config)


def untied() -> nn.Module:
    return tiny.tiny_llama(tied=False)


GPT2 = {"base": tiny.tiny_gpt2, "target_modules": ["c_attn"], "fan_in_fan_out": True}


def test_lora_matrices_lie_in_the_models_order() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    found = trained_parameters(model)
    expected = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert [layer.name + ".weight" for layer in found.layers] == [n for n, _ in expected]
    assert all(a is b for a, (_, b) in zip(found.weights, expected, strict=True))
    assert len(found.layers) == 3 * 2 * 2
    ends = [0, *(layer.stop for layer in found.layers)]
    assert [layer.start for layer in found.layers] == ends[:-1]
    assert found.size == sum(p.numel() for _, p in expected)
    flat = found.flatten(found.weights)
    assert flat.dtype == torch.float64
    last = found.layers[-1]
    assert torch.equal(flat[last.start : last.stop].reshape(last.module.weight.shape), last.module.weight.double())


def test_matrices_on_conv1d_are_linear_layers_too() -> None:
    found = trained_parameters(adapted(**GPT2))
    assert len(found.layers) == 3 * 2


def test_flatten_copies() -> None:
    found = trained_parameters(adapted())
    flat = found.flatten(found.weights)
    kept = flat.clone()
    with torch.no_grad():
        for weight in found.weights:
            weight.add_(1)
    assert torch.equal(flat, kept)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        pytest.param(tiny.tiny_llama, r"model\.embed_tokens\.weight", id="full fine-tuning"),
        pytest.param(lambda: adapted(bias="lora_only", **GPT2), r"c_attn\.base_layer\.bias", id="bias"),
        pytest.param(lambda: adapted(use_dora=True), "lora_magnitude_vector", id="DoRA"),
        pytest.param(
            lambda: adapted(untied, modules_to_save=["lm_head"]), r"lm_head\.modules_to_save", id="a saved head"
        ),
        pytest.param(lambda: adapted(untied, target_modules=["lm_head"]), r"lm_head\.lora_A", id="LoRA on the head"),
        pytest.param(
            lambda: adapted(untied, target_modules=["embed_tokens"]), "lora_embedding_A", id="LoRA on embeddings"
        ),
        pytest.param(lambda: nn.Sequential(nn.Linear(2, 2)), r"0\.(weight|bias)", id="a bias"),
    ],
)
def test_what_is_not_accounted_for_is_named(build: Any, named: str) -> None:
    with pytest.raises(PrerequisiteError, match=f"trained parameters: found .*{named}.*LoraConfig"):
        trained_parameters(build())


def test_a_model_that_does_not_train_is_refused() -> None:
    model = adapted()
    model.requires_grad_(False)
    with pytest.raises(PrerequisiteError, match="trained parameters: found none"):
        trained_parameters(model)
