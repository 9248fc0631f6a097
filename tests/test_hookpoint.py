"""Hookpoints on tiny random models, against transformers' own output_hidden_states; plain and wrapped by peft."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smda_monitor.errors import ConfigError, MeasurementError, PrerequisiteError
from smda_monitor.instruments.dictionary import Dictionary
from smda_monitor.instruments.hookpoint import ResidualTap, check_width, decoder_layers, find_block, parse_hook

WIDTH, LAYERS = 16, 3
PATHS = {"llama": "model.layers", "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "gemma2": "model.layers"}


def build(family: str, wrapped: bool = False) -> Any:
    """A tiny random causal LM in eval mode; with LoRA of random weights on every linear layer where `wrapped`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    sizes: dict[str, Any] = {"vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 8}
    if family == "gpt2":
        sizes = {"vocab_size": 40, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2}
    elif family == "gpt_neox":
        del sizes["num_key_value_heads"], sizes["head_dim"]
    torch.manual_seed(0)
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = AutoConfig.for_model(family, **sizes, **tokens, initializer_range=0.3)
    model = auto.from_config(config, attn_implementation="eager").eval()
    if wrapped:
        from peft import LoraConfig, get_peft_model

        # fan_in_fan_out is what peft asks for with GPT-2's Conv1D.
        lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=family == "gpt2")
        model = get_peft_model(model, lora).eval()
    return model


IDS = torch.arange(3, 27).reshape(2, 12) % 40


def tapped(model: Any, hook: str) -> Tensor:
    with torch.no_grad(), ResidualTap(model, hook) as tap:
        model(input_ids=IDS, use_cache=False)
        return tap.take()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", PATHS)
def test_the_block_itself_is_read(family: str, wrapped: bool) -> None:
    # hidden_states[L] is block L-1's output.
    model = build(family, wrapped)
    path, layers = decoder_layers(model)
    assert path == ("base_model.model." if wrapped else "") + PATHS[family]
    assert len(layers) == LAYERS
    with torch.no_grad():
        states = model(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states
    assert len(states) == LAYERS + 1
    for layer in range(LAYERS):
        pre, post = (tapped(model, f"blocks.{layer}.hook_resid_{kind}") for kind in ("pre", "post"))
        assert torch.equal(pre, states[layer])
        assert not torch.allclose(post, states[layer], atol=1e-2)  # the mistake would not go unseen
        if layer < LAYERS - 1:
            assert torch.equal(post, states[layer + 1])
        else:
            # The last entry has been through the final norm; the residual stream has not.
            assert not torch.allclose(post, states[-1], atol=1e-2)
            norm = next(m for m in reversed(list(model.modules())) if "Norm" in type(m).__name__)
            assert torch.allclose(norm(post), states[-1], atol=1e-5)


@pytest.mark.parametrize("family", PATHS)
def test_adapter_changes_what_is_read(family: str) -> None:
    # Not vacuous: the tap on the wrapped model sees the adapter.
    hook = "blocks.1.hook_resid_post"
    assert not torch.allclose(tapped(build(family), hook), tapped(build(family, wrapped=True), hook), atol=1e-3)


def test_graph_is_kept_and_the_run_is_not_touched() -> None:
    model = build("llama").train()
    reference = model(input_ids=IDS, use_cache=False).logits
    before = torch.get_rng_state()
    with ResidualTap(model, "blocks.1.hook_resid_post") as tap:
        logits = model(input_ids=IDS, use_cache=False).logits
        h = tap.take()
    assert torch.equal(logits, reference)
    assert torch.equal(torch.get_rng_state(), before)
    inside, outside = (model.get_parameter(f"model.layers.{layer}.mlp.down_proj.weight") for layer in (1, 2))
    gradients = torch.autograd.grad(h.square().sum(), [inside, outside], allow_unused=True)
    assert gradients[0] is not None
    assert float(gradients[0].abs().max()) > 0
    assert gradients[1] is None


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_tap_hands_over_once_and_leaves_nothing_behind(kind: str) -> None:
    model = build("llama")
    block, _ = find_block(model, "blocks.1.hook_resid_post")
    tap = ResidualTap(model, f"blocks.1.hook_resid_{kind}")
    hooks = len(block._forward_hooks) + len(block._forward_pre_hooks)
    with tap:
        assert len(block._forward_hooks) + len(block._forward_pre_hooks) == hooks + 1
        model(input_ids=IDS, use_cache=False)
        tap.take()
        with pytest.raises(MeasurementError, match="no forward pass"):
            tap.take()
    assert len(block._forward_hooks) + len(block._forward_pre_hooks) == hooks
    model(input_ids=IDS, use_cache=False)
    with pytest.raises(MeasurementError, match="no forward pass"):
        tap.take()


@pytest.mark.parametrize(("name", "expected"), [("pre", (22, "pre")), ("post", (22, "post"))])
def test_hook_names(name: str, expected: tuple[int, str]) -> None:
    assert parse_hook(f"blocks.22.hook_resid_{name}") == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "blocks.3.hook_resid_mid",
        "blocks.3.hook_mlp_out",
        "blocks.-1.hook_resid_post",
        "model.layers.3",
        "blocks.٣.hook_resid_pre",
    ],
)
def test_hook_names_not_supported(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"blocks\.<layer>\.hook_resid_pre or blocks\.<layer>\.hook_resid_post"
    ) as caught:
        parse_hook(name)
    assert (repr(name) if name else "names no hookpoint") in str(caught.value)


@pytest.mark.parametrize("layer", [LAYERS, 400])
def test_layer_out_of_range(layer: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"layer {layer} in a model with {LAYERS} decoder blocks .* 0 to {LAYERS - 1}"
    ):
        ResidualTap(build("llama"), f"blocks.{layer}.hook_resid_post")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", PATHS)
def test_width(family: str, wrapped: bool) -> None:
    model = build(family, wrapped)
    check_width(dictionary_of(WIDTH), model)
    with pytest.raises(ConfigError, match=rf"trained on other.*d_in {WIDTH + 1}; expected {WIDTH}"):
        check_width(dictionary_of(WIDTH + 1), model)


def dictionary_of(d_in: int) -> Dictionary:
    zeros = torch.zeros
    return Dictionary(
        architecture="standard",
        W_enc=zeros(d_in, 5),
        b_enc=zeros(5),
        W_dec=zeros(5, d_in),
        b_dec=zeros(d_in),
        threshold=zeros(5),
        k=None,
        decoder_norm=None,
        normalisation="none",
        apply_b_dec_to_input=True,
        hook_name="blocks.1.hook_resid_post",
        fingerprint="0" * 16,
        model_name="other",
    )


def test_multimodal_prefix() -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=40, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=24
    )
    vision = CLIPVisionConfig(
        hidden_size=8, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=39)
    model: nn.Module = LlavaForConditionalGeneration(config)
    lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == LAYERS]
    assert len(lists) == 2  # the vision tower's is as long
    path, _ = decoder_layers(model)
    assert path.endswith("language_model.layers")
    check_width(dictionary_of(WIDTH), model)
    assert tapped(model, "blocks.2.hook_resid_post").shape == (2, 12, WIDTH)


def test_a_model_around_another_that_does_not_tell_its_embedding() -> None:
    """transformers' base class raises there: the model inside is asked."""
    from transformers import PreTrainedModel

    class Around(PreTrainedModel):
        def __init__(self, inner: Any) -> None:
            super().__init__(inner.config)
            self.inside = inner

    model = Around(build("llama"))
    with pytest.raises(NotImplementedError):
        model.get_input_embeddings()
    path, layers = decoder_layers(model)
    assert (path, len(layers)) == ("inside.model.layers", LAYERS)
    with pytest.raises(ConfigError, match=rf"d_in {WIDTH + 1}; expected {WIDTH}"):
        check_width(dictionary_of(WIDTH + 1), model)


def test_encoder_decoder_is_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=40, d_model=WIDTH, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    with pytest.raises(PrerequisiteError, match=r"beside the token embedding \(module lists: encoder\.block \(2\)"):
        decoder_layers(T5ForConditionalGeneration(config))


class TupleBlock(nn.Module):
    """A block as in older releases of transformers: keyword input, tuple output; with experts, as many as blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    def forward(self, *, hidden_states: Tensor) -> tuple[Tensor, None]:
        return hidden_states + 1, None


class Plain(nn.Module):
    """A language model that knows no configuration."""

    def __init__(self, output: nn.Module) -> None:
        super().__init__()
        self.tokens = nn.Embedding(40, WIDTH)
        self.stack = nn.ModuleList([TupleBlock(), output])

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        h: Tensor = self.tokens(input_ids)
        for block in self.stack:
            h = block(hidden_states=h)[0]
        return h


class Wrapper(nn.Module):
    """As DistributedDataParallel: the model under another name, its methods not passed through."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def test_tuples_keywords_and_wrappers() -> None:
    plain = Plain(TupleBlock())
    model = Wrapper(plain)
    assert decoder_layers(model)[0] == "module.stack"
    check_width(dictionary_of(WIDTH), model)
    pre, post = (tapped(model, f"blocks.1.hook_resid_{kind}") for kind in ("pre", "post"))
    assert torch.equal(post, pre + 1)
    assert torch.equal(pre, plain.tokens(IDS) + 1)
    assert decoder_layers(Wrapper(build("gpt2")))[0] == "module.transformer.h"


def test_models_without_blocks_or_width() -> None:
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(PrerequisiteError, match="found 0 lists of blocks"):
            decoder_layers(model)
        with pytest.raises(PrerequisiteError, match="width of"):
            check_width(dictionary_of(WIDTH), model)


class Strange(nn.Module):
    def forward(self, *, hidden_states: Tensor) -> dict[int, Tensor]:
        return {0: hidden_states}


def test_block_that_gives_no_tensor() -> None:
    with pytest.raises(MeasurementError, match="dict from Strange"):
        tapped(Plain(Strange()), "blocks.1.hook_resid_post")
