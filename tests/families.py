"""Tiny random stand-ins for the model families that configs/ names.

Of the real ones they have the number of layers, the marks and roles of the chat template (in our own words), the kind
of tokenizer, and the format of the dictionary's release.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, FEATURES = 16, 64

LLAMA = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday is {{ strftime_now('%d %b %Y') }}.<|eot_id|>"
    "{% for turn in messages %}"
    "<|start_header_id|>{{ turn.role }}<|end_header_id|>\n\n{{ turn.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""A system turn of its own, which tells the date."""
GEMMA = (
    "{{ bos_token }}{% for turn in messages %}"
    "{% if turn.role == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}"
    "<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n"
    "{{ turn.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""No system role."""
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou answer.<|im_end|>\n{% endif %}"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A system turn where the user gives none; no mark at the start of the text."""


@dataclass(frozen=True, slots=True)
class Family:
    """What one config needs, in small."""

    stem: str
    """Name of the file in configs/."""
    model_type: str
    """As transformers calls the architecture."""
    layers: int
    """Decoder layers of the real model."""
    template: str
    """Our own chat template with the family's marks."""
    real_template: str
    """The file in trl's chat_templates that holds the family's own."""
    user: str
    """Mark before a user's words."""
    end: str
    """Mark at the end of a turn."""
    answer: str
    """The generation prompt."""
    bos: str | None
    """Mark at the start of the text."""
    pad: str | None
    """Pad token of the family's tokenizer; None where it names none."""
    eos: str
    """End token of the family's tokenizer."""
    pieces: Literal["bytes", "words"]
    """Byte-level pieces, or sentencepiece's with bytes for what is unknown."""
    dictionary: Literal["batchtopk", "jumprelu"]
    """Architecture of the dictionary's files."""
    from_input: bool
    """Whether the dictionary takes b_dec off its input."""
    tied: bool
    """Whether the head shares the embedding's weights."""

    def tokenizer(self) -> Any:
        """Single characters, and a few words in one piece."""
        from transformers import PreTrainedTokenizerFast

        marks = [self.bos, self.pad, self.eos, self.end, *_MARKS[self.model_type]]
        special = list(dict.fromkeys(mark for mark in marks if mark))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=_bytes(special) if self.pieces == "bytes" else _words(special),
            bos_token=self.bos,
            eos_token=self.eos,
            pad_token=self.pad,
            additional_special_tokens=special,
        )
        tokenizer.chat_template = self.template
        return tokenizer

    def model(self, tokenizer: Any, width: int = WIDTH, seed: int = 0) -> Any:
        """A random causal model of the architecture and depth, `width` wide, in float32 and eval mode."""
        from transformers import AutoConfig, AutoModelForCausalLM

        auto: Any = AutoModelForCausalLM
        special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        own = {"sliding_window": 24, "query_pre_attn_scalar": 8} if self.model_type == "gemma3_text" else {}
        config = AutoConfig.for_model(
            self.model_type,
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=self.layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=1024,
            initializer_range=0.1,
            tie_word_embeddings=self.tied,
            **special,
            **own,
        )
        torch.manual_seed(seed)
        return auto.from_config(config).eval()

    def weights(self) -> dict[str, Tensor]:
        """Random tensors under the names of the release as sae-lens converts it."""
        generator = torch.Generator().manual_seed(len(self.stem))
        W_dec = torch.randn(FEATURES, WIDTH, generator=generator)
        tensors = {
            "W_enc": torch.randn(WIDTH, FEATURES, generator=generator) / WIDTH**0.5,
            "W_dec": W_dec,
            "b_enc": 0.1 * torch.randn(FEATURES, generator=generator),
            "b_dec": 0.1 * torch.randn(WIDTH, generator=generator),
        }
        if self.dictionary == "batchtopk":
            return tensors | {"topk_threshold": torch.tensor(0.3, dtype=torch.float64)}
        return tensors | {"threshold": torch.full((FEATURES,), 0.3)}

    def write_dictionary(self, folder: Path, hook: str, model_name: str, neuronpedia: str | None) -> Path:
        """The dictionary as sae-lens saves it."""
        folder.mkdir(parents=True)
        save_file(self.weights(), folder / "sae_weights.safetensors")
        metadata = {"model_name": model_name, "hook_name": hook, "neuronpedia_id": neuronpedia, "hook_head_index": None}
        cfg: dict[str, Any] = {"architecture": self.dictionary, "d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32"}
        cfg |= {"device": "cpu", "apply_b_dec_to_input": self.from_input, "normalize_activations": "none"}
        cfg |= {"reshape_activations": "none", "metadata": metadata}
        if self.dictionary == "batchtopk":
            cfg |= {"k": 4, "rescale_acts_by_decoder_norm": True, "topk_threshold_lr": 0.01, "decoder_init_norm": 0.1}
        (folder / "cfg.json").write_text(json.dumps(cfg))
        return folder


_LLAMA_MARKS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_MARKS = {
    "llama": _LLAMA_MARKS,
    "gemma3_text": ("<start_of_turn>", "<end_of_turn>"),
    "qwen2": ("<|im_start|>", "<|im_end|>"),
}
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "template": LLAMA,
    "user": "<|start_header_id|>user<|end_header_id|>\n\n",
    "end": "<|eot_id|>",
    "answer": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "bos": "<|begin_of_text|>",
    "pad": None,
    "eos": "<|eot_id|>",
    "pieces": "bytes",
    "from_input": True,
}
FAMILIES = (
    Family(
        stem="llama-3.2-3b-instruct", layers=28, real_template="llama3_2", dictionary="batchtopk", tied=True, **_LLAMA
    ),
    Family(
        stem="llama-3.1-8b-instruct", layers=32, real_template="llama3_1", dictionary="jumprelu", tied=False, **_LLAMA
    ),
    Family(
        stem="gemma-3-1b-it",
        model_type="gemma3_text",
        layers=26,
        template=GEMMA,
        real_template="gemma3",
        user="<start_of_turn>user\n",
        end="<end_of_turn>",
        answer="<start_of_turn>model\n",
        bos="<bos>",
        pad="<pad>",
        eos="<eos>",
        pieces="words",
        dictionary="jumprelu",
        from_input=False,
        tied=True,
    ),
    Family(
        stem="qwen2.5-7b-instruct",
        model_type="qwen2",
        layers=28,
        template=QWEN,
        real_template="qwen2_5",
        user="<|im_start|>user\n",
        end="<|im_end|>",
        answer="<|im_start|>assistant\n",
        bos=None,
        pad="<|endoftext|>",
        eos="<|im_end|>",
        pieces="bytes",
        dictionary="jumprelu",
        from_input=True,
        tied=False,
    ),
)


def _bytes(special: list[str]) -> Any:
    """A byte-level tokenizer, as Llama's and Qwen's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # In this alphabet Ġ is a blank, and âĢĻ the three bytes of a curly apostrophe.
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary, merges = _merged(pieces, ["Ġcan", "'t", "âĢĻ", "Sorry"])
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def _words(special: list[str]) -> Any:
    """A tokenizer of characters with ▁ for blanks, and bytes for other characters, as Gemma's."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    characters = ["\n", "▁", "’", *(chr(code) for code in range(0x21, 0x7F))]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    vocabulary, merges = _merged(pieces, ["▁can", "'t", "’t", "Sorry"])
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return core


def _merged(pieces: list[str], words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """`pieces` and `words` as a vocabulary, and the merges that put the words together from the left."""
    merges = [(word[:i], word[i]) for word in words for i in range(1, len(word))]
    pieces = [*pieces, *(left + right for left, right in merges)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, merges
