"""Which parameters train, where they lie, and which models are refused by the name of their first wrong parameter."""

from __future__ import annotations

import itertools
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
    assert [tensor.name for tensor in found.tensors] == [n for n, _ in expected]
    assert all(a is b for a, (_, b) in zip(found.weights, expected, strict=True))
    assert len(found.tensors) == len(found.modules) == 3 * 2 * 2
    assert {tensor.captured for tensor in found.tensors} == {("linear",)}
    ends = [0, *(tensor.stop for tensor in found.tensors)]
    assert [tensor.start for tensor in found.tensors] == ends[:-1]
    assert found.bounds == list(itertools.pairwise(ends))
    assert found.size == sum(p.numel() for _, p in expected)
    flat = found.flatten(found.weights)
    assert flat.dtype == torch.float32, "in their own type"
    last = found.tensors[-1]
    assert torch.equal(flat[last.start : last.stop].reshape(last.parameter.shape), last.parameter)


def test_matrices_on_conv1d_are_linear_layers_too() -> None:
    found = trained_parameters(adapted(**GPT2))
    assert len(found.tensors) == 3 * 2


def test_flatten_copies() -> None:
    found = trained_parameters(adapted())
    flat = found.flatten(found.weights)
    kept = flat.clone()
    with torch.no_grad():
        for weight in found.weights:
            weight.add_(1)
    assert torch.equal(flat, kept)


def kinds(model: nn.Module) -> set[str]:
    return {"/".join(tensor.captured) for tensor in trained_parameters(model).tensors}


def test_how_each_parameter_is_captured() -> None:
    assert kinds(adapted(use_dora=True)) == {"linear", "magnitude"}
    assert kinds(tiny.tiny_llama()) == {"embedding/head", "linear", "replayed"}
    assert kinds(untied()) == {"embedding", "head", "linear", "replayed"}
    assert kinds(tiny.tiny_gpt2()) == {"embedding/head", "embedding", "conv1d", "replayed"}
    assert kinds(adapted(untied, modules_to_save=["lm_head", "norm"])) == {"linear", "head", "replayed"}


def test_what_two_modules_share_is_one_parameter() -> None:
    found = trained_parameters(tiny.tiny_llama())
    first = found.tensors[0]
    assert first.name == "model.embed_tokens.weight"
    assert [module.name for module in found.modules if 0 in module.own.values()] == ["model.embed_tokens", "lm_head"]
    assert found.head is not None
    assert (found.head.weight, found.head.bias) == (0, None)
    assert found.size == sum(p.numel() for p in tiny.tiny_llama().parameters())
    apart = trained_parameters(untied())
    assert apart.head is not None
    assert apart.head.weight == len(apart.tensors) - 1


def test_a_frozen_head_is_not_captured() -> None:
    assert trained_parameters(adapted()).head is None
    assert trained_parameters(adapted(untied, modules_to_save=["embed_tokens"])).head is None


def test_a_row_is_kept_formed_where_that_is_no_larger() -> None:
    found = trained_parameters(tiny.tiny_llama(hidden=32))
    table, query = found.tensors[0], found.tensors[1]
    assert (table.parameter.shape, query.parameter.shape) == ((320, 32), (32, 32))
    assert [query.formed(t) for t in (15, 16)] == [False, True]  # 32·32 against t·(32 + 32)
    assert [table.formed(t) for t in (159, 160)] == [False, True]  # 320·32 against t·(32 + 32)
    norm = next(tensor for tensor in found.tensors if tensor.captured == ("replayed",))
    assert norm.formed(1)


def test_layers_that_may_be_checkpointed_are_known() -> None:
    model = adapted(untied, modules_to_save=["lm_head"])
    found = {module.name: module.checkpointing for module in trained_parameters(model).modules}
    assert all((layer is None) == ("lm_head" in name) for name, layer in found.items())
    assert {type(layer).__name__ for layer in found.values()} == {"LlamaDecoderLayer", "NoneType"}


class Own(nn.Module):
    """A module with a parameter beside its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(2, 2).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.part(x) * self.scale
        return found


def experts(name: str) -> nn.Module:
    """A mixture of experts that trains the parameters of that name alone."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    for own, parameter in model.named_parameters():
        parameter.requires_grad_(own.endswith(name))
    return model


def test_a_mixture_of_experts_is_accepted_where_its_experts_are_frozen() -> None:
    assert {tensor.captured for tensor in trained_parameters(experts("q_proj.weight")).tensors} == {("linear",)}


def prompt_tuned() -> nn.Module:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return get_peft_model(tiny.tiny_llama(), config)  # type: ignore[arg-type]


def ia3() -> nn.Module:
    from peft import IA3Config, get_peft_model

    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    return get_peft_model(tiny.tiny_llama(), config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        pytest.param(
            lambda: adapted(untied, target_modules=["lm_head"]), r"lm_head\.lora_A.*fused", id="LoRA on the head"
        ),
        pytest.param(
            lambda: adapted(untied, target_modules=["embed_tokens"]), "lora_embedding_A", id="LoRA on embeddings"
        ),
        pytest.param(
            lambda: adapted(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [1]}),
            "trainable_tokens_delta",
            id="single tokens",
        ),
        pytest.param(
            lambda: adapted(target_modules=[], target_parameters=["q_proj.weight"]),
            "lora_A.*bare parameters",
            id="LoRA on bare parameters",
        ),
        pytest.param(
            lambda: adapted(use_dora=True, bias="all", **GPT2), r"c_attn\.base_layer\.bias.*DoRA", id="DoRA and bias"
        ),
        pytest.param(lambda: experts("gate.weight"), r"mlp\.gate\.weight \(.*on tokens", id="a router"),
        pytest.param(lambda: experts("down_proj"), r"mlp\.experts\.down_proj \(MixtralExperts", id="experts"),
        pytest.param(ia3, "ia3_l", id="IA3"),
        pytest.param(prompt_tuned, "prompt_encoder", id="prompt tuning"),
        pytest.param(Own, r"scale \(Own", id="a parameter beside parts"),
        pytest.param(lambda: nn.Sequential(nn.Embedding(4, 2, max_norm=1.0)), r"0\.weight", id="embedding with a norm"),
    ],
)
def test_what_cannot_be_captured_is_named(build: Any, named: str) -> None:
    with pytest.raises(PrerequisiteError, match=f"trained parameters: found .*{named}.*LoraConfig"):
        trained_parameters(build())


def test_what_adalora_adds_to_is_refused() -> None:
    from peft import AdaLoraConfig, get_peft_model

    told: Any = {"target_modules": ["q_proj"], "total_step": 9, "task_type": "CAUSAL_LM"}
    model = get_peft_model(tiny.tiny_llama(), AdaLoraConfig(**told))
    assert {t.captured for t in trained_parameters(model).tensors} == {("svd",)}
    weight = next(p for name, p in model.named_parameters() if name.endswith("q_proj.base_layer.weight"))
    weight.requires_grad_(True)
    with pytest.raises(PrerequisiteError, match=r"q_proj\.base_layer\.weight \(AdaLoRA adds to its output in place"):
        trained_parameters(model)


def test_a_model_that_does_not_train_is_refused() -> None:
    model = adapted()
    model.requires_grad_(False)
    with pytest.raises(PrerequisiteError, match="trained parameters: found none"):
        trained_parameters(model)
