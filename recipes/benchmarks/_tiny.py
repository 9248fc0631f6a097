"""A tiny random model with all that the monitor needs: the benchmarks' own machinery runs on it in seconds.

Its figures say nothing about a real model: a random network has no refusal and a random dictionary no features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _prompts import thinned

HIDDEN = 32
WORDS = 6
"""Words kept of every prompt: the tokens are bytes."""
CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}<|end|>"
    "{% else %}<|answer|>{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)


def tiny_model(seed: int = 0) -> Any:
    """A random Llama of three layers in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval()


def tiny_tokenizer() -> Any:
    """One token per byte, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|pad|>", "<|user|>", "<|end|>", "<|answer|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=core,
        pad_token=words[0],
        eos_token=words[2],
        additional_special_tokens=[words[1], words[3]],
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def short(text: str) -> str:
    """The first `WORDS` words."""
    return " ".join(text.split()[:WORDS])


def tiny_config(folder: Path, seed: int = 0) -> dict[str, Any]:
    """A monitor's configuration on files under `folder`: the shipped prompts cut short, a random dictionary."""
    prompts = thinned(folder, {"probes": 1, "fit": 11, "heldout": 7}, cut=short)
    return {
        "probes": {**prompts, "overlap": "warn"},
        "behaviour": {"openings": ["No", "I can't"], "opposite": ["Yes", "Ok"]},
        "dictionary": {"path": str(_dictionary(folder / "dictionary", seed))},
        "policy": {"path": "fit", "bootstrap": 4},
    }


def _dictionary(folder: Path, seed: int) -> Path:
    import torch
    from safetensors.torch import save_file

    features, generator = 48, torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(features, HIDDEN, generator=generator), dim=1)
    weights = {
        "W_enc": rows.T.contiguous(),
        "W_dec": rows,
        "b_enc": torch.zeros(features),
        "b_dec": torch.zeros(HIDDEN),
        "threshold": torch.full((features,), 0.05),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu",
        "d_in": HIDDEN,
        "d_sae": features,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"hook_name": "blocks.1.hook_resid_post", "model_name": "tiny"},
    }
    (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
