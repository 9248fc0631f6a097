"""Tiny random models, tokenizers, dictionaries and policies: everything that does not need a real chat model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

VOCABULARY = 320
CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}<|end|>"
    "{% else %}<|answer|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)


def tiny_tokenizer() -> Any:
    """A byte-level tokenizer with a chat template, made in memory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|pad|>", "<|user|>", "<|end|>", "<|answer|>", *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|answer|>"],
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def tiny_llama(seed: int = 0, layers: int = 3, hidden: int = 32, tied: bool = True) -> nn.Module:
    """A random Llama in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def tiny_gpt2(seed: int = 0, layers: int = 3, hidden: int = 32) -> nn.Module:
    """A random GPT-2 in float32: learned positions, weights as Conv1D."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=hidden, n_layer=layers, n_head=4, n_positions=256, initializer_range=0.2,
        pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def tiny_lora(
    model: nn.Module, dropout: float = 0.0, seed: int = 1, targets: tuple[str, ...] = ("q_proj", "v_proj")
) -> nn.Module:
    """LoRA r=4, on q and v unless told, with both matrices random, so that every gradient is alive."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=dropout,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    return get_peft_model(model, config)  # type: ignore[arg-type]


def write_dictionary(folder: Path, d_in: int = 32, d_sae: int = 48, layer: int = 1, seed: int = 2) -> Path:
    """A random JumpReLU dictionary in sae-lens format."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    W_dec = torch.randn(d_sae, d_in, generator=generator)
    W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
    save_file(
        {
            "W_enc": W_dec.T.contiguous(),
            "W_dec": W_dec,
            "b_enc": torch.zeros(d_sae),
            "b_dec": torch.zeros(d_in),
            "threshold": torch.full((d_sae,), 0.05),
        },
        folder / "sae_weights.safetensors",
    )
    config = {
        "architecture": "jumprelu",
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"hook_name": f"blocks.{layer}.hook_resid_post", "model_name": "tiny"},
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def write_prompts(path: Path, n: int = 24, start: int = 0) -> Path:
    """`n` short prompts of all kinds in two categories."""
    kinds = ("harmful", "lookalike", "benign")
    with path.open("w") as out:
        for i in range(start, start + n):
            row = {
                "id": f"p{i:03d}",
                "prompt": f"{'abcdefghij'[i % 10] * (1 + i % 4)} {i * 7919 % 1000} request",
                "category": ("fraud", "privacy")[i // 3 % 2],
                "kind": kinds[i % 3],
                "pair": None,
            }
            out.write(json.dumps(row) + "\n")
    return path


def tiny_config(folder: Path, **outputs: Any) -> dict[str, Any]:
    """A whole configuration on files under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "probes": {
            "file": str(write_prompts(folder / "probes.jsonl")),
            "fit": str(write_prompts(folder / "fit.jsonl", 60, 100)),
            "heldout": str(write_prompts(folder / "held.jsonl", 12, 300)),
            "per_step": 12,
        },
        "behaviour": {"openings": ["No", "I can't"], "opposite": ["Yes", "Ok"]},
        "dictionary": {"path": str(write_dictionary(folder / "dictionary"))},
        "policy": {"path": "fit", "bootstrap": 8},
        "outputs": {"folder": str(folder / "run"), "wandb": False, **outputs},
    }


def tiny_rows(n: int = 24) -> Any:
    """Prompt-completion rows as a data set."""
    from datasets import Dataset

    rows = [
        {
            "id": f"mine-{i}",
            "prompt": [{"role": "user", "content": f"question {i} " + "xyz"[i % 3] * (i % 5)}],
            "completion": [
                {"role": "assistant", "content": ("No, not that. ", "Yes, here it is ")[i % 2] + str(i * i)}
            ],
        }
        for i in range(n)
    ]
    return Dataset.from_list(rows)


def tiny_trainer(
    folder: Path,
    callbacks: list[Any],
    dropout: float = 0.0,
    rows: Any = None,
    model: Any = None,
    given: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Any:
    """TRL's SFTTrainer with its defaults and what else is `given` to it, on a tiny model, two rows to a micro-batch."""
    from trl import SFTConfig, SFTTrainer

    known = {
        "output_dir": str(folder / "trainer"),
        "bf16": False,
        "use_cpu": True,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    return SFTTrainer(
        model if model is not None else tiny_lora(tiny_llama(), dropout),
        args=SFTConfig(**{**known, **settings}),
        train_dataset=rows if rows is not None else tiny_rows(),
        callbacks=callbacks,
        **{"processing_class": tiny_tokenizer(), **given},
    )
