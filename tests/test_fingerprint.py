from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from smda_monitor.instruments.fingerprint import checksum, model_fingerprint


def tiny_llama(seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )


def with_lora(model: Any, name: str = "default", alpha: int = 8, filled: bool = False, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
    adapted = get_peft_model(copy.deepcopy(model), config, adapter_name=name)
    if filled:
        torch.manual_seed(2)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name:
                nn.init.normal_(parameter)
    return adapted


def reference_checksum(tensor: torch.Tensor) -> int:
    """The docstring's sum in Python's own integers."""
    width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    total, mask = 0, (1 << 64) - 1
    for position, bits in enumerate(tensor.contiguous().view(width).reshape(-1).tolist()):
        factor = (position * -7046029254386353131) & mask
        signed = factor - (1 << 64) if factor >> 63 else factor
        factor = ((signed ^ (signed >> 31)) * -4658895280553007687) & mask | 1
        total += bits * factor
    total &= mask
    return total - (1 << 64) if total >> 63 else total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_checksum_equals_the_sum_in_python_integers(dtype: torch.dtype) -> None:
    tensor = (torch.randn(7, 11, generator=torch.Generator().manual_seed(3)) * 50).to(dtype)
    before = tensor.clone()
    assert checksum(tensor) == reference_checksum(tensor)
    assert torch.equal(tensor, before)


def test_checksum_counts_positions_across_chunks() -> None:
    ones = torch.ones((1 << 18) + 5, dtype=torch.int8)
    moved = ones.clone()
    moved[0], moved[-1] = 0, 2
    assert checksum(ones) != checksum(moved)
    assert checksum(ones[:-1]) != checksum(ones)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(position=st.integers(0, 299), bit=st.integers(0, 31))
def test_every_bit_of_every_element_counts(position: int, bit: int) -> None:
    tensor = torch.randn(300, generator=torch.Generator().manual_seed(4))
    changed = tensor.clone()
    changed.view(torch.int32)[position] ^= -(1 << 31) if bit == 31 else 1 << bit
    assert checksum(changed) != checksum(tensor)


def test_checksum_reads_strided_tensors_in_row_major_order() -> None:
    tensor = torch.randn(5, 6)
    assert checksum(tensor.T) == checksum(tensor.T.contiguous()) != checksum(tensor)


def test_one_bit_in_any_parameter_changes_the_fingerprint() -> None:
    model = tiny_llama()
    before = model_fingerprint(model)
    assert before == model_fingerprint(copy.deepcopy(model)) == model_fingerprint(tiny_llama())
    assert len(before) == 16
    int(before, 16)
    for _, parameter in model.named_parameters():
        bits = parameter.data.view(torch.int32).view(-1)
        bits[-1] ^= 1
        assert model_fingerprint(model) != before
        bits[-1] ^= 1
    assert model_fingerprint(model) == before


def test_swapped_weights_of_one_shape_differ() -> None:
    model = tiny_llama()
    other = copy.deepcopy(model)
    first, second = (layer.mlp.gate_proj.weight for layer in other.model.layers)
    first.data, second.data = second.data, first.data
    assert model_fingerprint(model) != model_fingerprint(other)


def test_float32_and_bfloat16_copies_differ_even_where_all_values_are_equal() -> None:
    rounded = tiny_llama().bfloat16()
    assert len({model_fingerprint(m) for m in (tiny_llama(), rounded, copy.deepcopy(rounded).float())}) == 3


def test_threads_and_wrappers_change_nothing() -> None:
    model = tiny_llama()
    wrapped = nn.Module()
    wrapped.module = copy.deepcopy(model)
    before, threads = model_fingerprint(model), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert model_fingerprint(wrapped) == before
    finally:
        torch.set_num_threads(threads)


def test_fresh_lora_leaves_the_base_fingerprint() -> None:
    model = tiny_llama()
    assert model_fingerprint(with_lora(model)) == model_fingerprint(model)
    assert model_fingerprint(with_lora(model, filled=True)) != model_fingerprint(model)


def test_an_adapter_counts_by_what_it_does_not_by_its_name() -> None:
    model = tiny_llama()
    filled = with_lora(model, filled=True)
    assert model_fingerprint(with_lora(model, name="refuser", filled=True)) == model_fingerprint(filled)
    assert model_fingerprint(with_lora(model, alpha=16, filled=True)) != model_fingerprint(filled)
    with filled.disable_adapter():
        assert model_fingerprint(filled) == model_fingerprint(model)


def test_a_fresh_adapter_beside_a_filled_one_changes_nothing() -> None:
    from peft import LoraConfig

    filled = with_lora(tiny_llama(), filled=True)
    before = model_fingerprint(filled)
    filled.add_adapter("fresh", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert model_fingerprint(filled) == before
    filled.base_model.set_adapter(["default", "fresh"])
    assert model_fingerprint(filled) == before
    filled.base_model.set_adapter("fresh")
    assert model_fingerprint(filled) == model_fingerprint(tiny_llama())


def test_a_merged_adapter_is_another_model() -> None:
    filled = with_lora(tiny_llama(), filled=True)
    before = model_fingerprint(filled)
    filled.merge_adapter()
    merged = model_fingerprint(filled)
    assert merged not in (before, model_fingerprint(tiny_llama()))
    assert model_fingerprint(with_lora(tiny_llama(), filled=True).merge_and_unload()) == merged


def test_a_fully_trained_copy_of_a_layer_replaces_it() -> None:
    model = tiny_llama()
    saved = with_lora(model, modules_to_save=["o_proj"])
    assert model_fingerprint(saved) == model_fingerprint(model)
    with torch.no_grad():
        saved.base_model.model.model.layers[0].self_attn.o_proj.modules_to_save["default"].weight[0, 0] += 1
    assert model_fingerprint(saved) != model_fingerprint(model)


def test_random_state_and_gradients_are_not_touched() -> None:
    model = tiny_llama()
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    state = torch.get_rng_state()
    model_fingerprint(model)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(model.lm_head.weight.grad, torch.ones_like(model.lm_head.weight))
