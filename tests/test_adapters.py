from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from smda_monitor.errors import ConfigError, PrerequisiteError
from smda_monitor.instruments.adapters import bind_adapter, with_adapter
from smda_monitor.instruments.fingerprint import model_fingerprint


def tiny_llama(width: int = 8, seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=width,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Any]:
    """A folder with an adapter that changes the model, bound to its weights, and the adapted model."""
    from peft import LoraConfig, get_peft_model

    base = tiny_llama()
    fingerprint = model_fingerprint(base)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder)
    bind_adapter(folder, fingerprint)
    return folder, adapted


def test_the_adapter_is_put_on_trainable_and_unchanged(saved: tuple[Path, Any]) -> None:
    folder, adapted = saved
    loaded = with_adapter(tiny_llama(), str(folder))
    assert model_fingerprint(loaded) == model_fingerprint(adapted) != model_fingerprint(tiny_llama())
    trained = [name for name, parameter in loaded.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_other_weights_are_refused_by_fingerprint(saved: tuple[Path, Any]) -> None:
    other = tiny_llama(seed=5)
    with pytest.raises(PrerequisiteError) as caught:
        with_adapter(other, str(saved[0]))
    assert model_fingerprint(tiny_llama()) in str(caught.value)
    assert model_fingerprint(other) in str(caught.value)
    with pytest.raises(PrerequisiteError, match="dtype"):
        with_adapter(tiny_llama().bfloat16(), str(saved[0]))
    (saved[0] / "smda.json").unlink()
    with_adapter(other, str(saved[0]))


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_an_unreadable_binding_is_refused(saved: tuple[Path, Any], content: str) -> None:
    (saved[0] / "smda.json").write_text(content)
    with pytest.raises(ConfigError, match="base_fingerprint"):
        with_adapter(tiny_llama(), str(saved[0]))


def test_missing_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        with_adapter(tiny_llama(), str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no adapter_config\.json"):
        with_adapter(tiny_llama(), str(tmp_path))


def test_damaged_and_misfitting_adapters_are_refused(saved: tuple[Path, Any]) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved[0]
    (folder / "smda.json").unlink()
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole, settings = weights.read_bytes(), config.read_text()
    with pytest.raises(ConfigError, match="whole PEFT adapter"):
        with_adapter(tiny_llama(width=16), str(folder))
    weights.write_bytes(whole[:100])
    with pytest.raises(ConfigError, match="whole PEFT adapter"):
        with_adapter(tiny_llama(), str(folder))
    weights.write_bytes(whole)
    part = dict(list(load_file(weights).items())[:-1])
    save_file(part, weights)
    with pytest.raises(ConfigError, match="missing adapter keys"):
        with_adapter(tiny_llama(), str(folder))
    weights.write_bytes(whole)
    config.write_text(settings[:20])
    with pytest.raises(ConfigError, match="whole PEFT adapter"):
        with_adapter(tiny_llama(), str(folder))
    config.write_text(settings)
    assert json.loads(settings)["r"] == 2
    with_adapter(tiny_llama(), str(folder))
