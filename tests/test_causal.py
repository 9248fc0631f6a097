"""A tree of openings in one forward against scoring each opening alone: Llama and GPT-2, prompts of all lengths."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import alone
import pytest
import tiny
import torch
from torch import Tensor, nn

from smda_monitor.errors import PrerequisiteError
from smda_monitor.instruments.behaviour import Behaviour
from smda_monitor.instruments.causal import TreeBatch, inner_causal, node_stage, prompt_stage, readings_of, tree_batch
from smda_monitor.instruments.chat import PromptTokens
from smda_monitor.instruments.opening_head import plain_head
from smda_monitor.instruments.read_behaviour import check_lead, check_reading, read_behaviour
from smda_monitor.maths.opening_tree import build_tree
from smda_monitor.maths.readings import Readings, read_openings

OURS = [(10, 11, 12), (10, 11, 13), (10, 20), (30,), (31, 31)]
OTHERS = [(10, 11, 40, 41), (50, 51), (52,)]
TREE = build_tree(OURS, OTHERS)
BEHAVIOUR = Behaviour("refusal", ("?",) * len(TREE.sequences), (), TREE, "mass")
LENGTHS = (1, 9, 4, 17)
MODELS = {"llama": tiny.tiny_llama, "gpt2": tiny.tiny_gpt2, "lora": lambda: tiny.tiny_lora(tiny.tiny_llama())}


def tree_logits(causal: Any, batch: TreeBatch) -> Tensor:
    """By the model's own head, whatever it is."""
    return node_stage(causal, batch, None, prompt_stage(causal, batch, None))


def prompts(seed: int = 0) -> list[PromptTokens]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for length in LENGTHS:
        ids = tuple(torch.randint(60, 300, (length,), generator=generator).tolist())
        made.append(PromptTokens(ids, length - 1))
    return made


@torch.no_grad()
def logits_of(model: Any, some: list[PromptTokens], pad: int = 0) -> Tensor:
    causal = inner_causal(model)
    return tree_logits(causal, tree_batch(some, TREE, pad, causal))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    built: Any = MODELS[request.param]()
    return built.eval()


def test_readings_equal_scoring_each_opening_alone(model: Any) -> None:
    found = read_openings(logits_of(model, prompts()).float(), TREE)
    with torch.no_grad():
        for i, prompt in enumerate(prompts()):
            expected = alone.readings_alone(model, prompt.ids, OURS, OTHERS)
            assert torch.allclose(found.openings[i], expected.openings, atol=1e-5)
            assert found.mass[i].item() == pytest.approx(expected.mass.item(), abs=1e-5)
            assert found.log_probability[i].item() == pytest.approx(expected.log_probability.item(), abs=1e-5)
            assert found.contrast[i].item() == pytest.approx(expected.contrast.item(), abs=1e-5)
    assert float(found.mass.std()) > 0.1, "the prompts matter"
    assert float(found.openings.std(0).min()) > 0.1


def test_the_head_read_apart_gives_the_same_readings_and_gradients(model: Any) -> None:
    causal = inner_causal(copy.deepcopy(model))
    batch = tree_batch(prompts(), TREE, 0, causal)
    head = plain_head(causal.requires_grad_(False))
    assert head is not None
    states = node_stage(causal, batch, head, prompt_stage(causal, batch, head)).requires_grad_()
    apart = readings_of(states, head, TREE)
    with torch.no_grad():
        own = read_openings(tree_logits(causal, batch), TREE)
    whole = read_openings(states.double() @ head.weight.double().T, TREE)
    for name in ("openings", "log_probability", "mass", "contrast"):
        found, expected = getattr(apart, name), getattr(whole, name)
        assert torch.allclose(found, getattr(own, name), atol=1e-5)
        (mine,) = torch.autograd.grad(found.sum(), states, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected.sum(), states, retain_graph=True)
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-5, name
        assert float(theirs.norm()) > 0.1
    assert plain_head(causal.requires_grad_(True)) is None, "a head that trains is read by the model itself"


def test_mistake_3_scores_do_not_come_from_padding(model: Any) -> None:
    """Right-padded prompts read at the last column give other scores; ours do not know of the padding at all."""
    some = prompts()
    found = read_openings(logits_of(model, some).float(), TREE)
    longest = max(LENGTHS)
    wrong = []
    with torch.no_grad():
        for prompt in some:
            padded = [*prompt.ids, *[0] * (longest - len(prompt.ids))]
            wrong.append(alone.readings_alone(model, padded, OURS, OTHERS).mass)
    difference = (found.mass - torch.stack(wrong)).abs()
    shorter = torch.tensor(LENGTHS) < longest
    assert bool((difference[shorter] > 0.01).all()), "the mistake would show"
    assert float(difference[~shorter].max()) < 1e-5

    other_pad = read_openings(logits_of(model, some, pad=299).float(), TREE)
    assert torch.equal(other_pad.mass, found.mass), "which token pads does not matter"
    single = torch.cat([read_openings(logits_of(model, [p]).float(), TREE).mass for p in some])
    assert torch.allclose(single, found.mass, atol=1e-5), "nor does how much"


def test_branches_do_not_see_each_other(model: Any) -> None:
    causal = inner_causal(model)
    batch = tree_batch(prompts(), TREE, 0, causal)
    prefixes = {(10,): 1, (10, 11): 2, (31,): 3, (10, 11, 40): 4, (50,): 5}
    sees = TREE.attention()
    assert len(prefixes) == len(TREE.node_tokens)
    with torch.no_grad():
        before = tree_logits(causal, batch)
        for node in range(len(TREE.node_tokens)):
            ids = batch.input_ids.clone()
            ids[:, max(LENGTHS) + node] = 77
            moved = tree_logits(causal, replace(batch, input_ids=ids))
            change = (moved - before).abs().amax((0, 2))
            blind = torch.cat([torch.tensor([True]), ~sees[:, node]])
            assert float(change[blind].max()) < 1e-6
            assert float(change[~blind].min()) > 1e-2, "the node itself and what hangs below it do change"


def test_two_stages_are_one_forward(model: Any) -> None:
    """Prompts first and nodes on their cache, against everything at once under the same mask."""
    causal = inner_causal(model)
    batch = tree_batch(prompts(), TREE, 0, causal)
    found = tree_logits(causal, batch)
    at_once = causal(
        input_ids=batch.input_ids,
        attention_mask=batch.attention,
        position_ids=batch.positions,
        use_cache=False,
        logits_to_keep=batch.n_positions,
    ).logits
    assert found.shape == at_once.shape
    assert torch.allclose(found, at_once, atol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(logits: Tensor) -> Tensor:
        read = read_openings(logits.float(), TREE)
        found = torch.autograd.grad((read.mass + read.contrast).sum(), parameters, allow_unused=True)
        return torch.cat([g.flatten() for g in found if g is not None])

    one, other = gradient(found), gradient(at_once)
    assert float((one - other).norm()) < 1e-5 * float(other.norm()), "the cache hands gradients on"


def test_the_first_stage_knows_nothing_of_the_nodes(model: Any) -> None:
    causal = inner_causal(model)
    batch = tree_batch(prompts(), TREE, 0, causal)
    other = replace(batch, input_ids=batch.input_ids.clone())
    other.input_ids[:, max(LENGTHS) :] = 77
    with torch.no_grad():
        one, two = prompt_stage(causal, batch, None), prompt_stage(causal, other, None)
        assert torch.equal(one.states, two.states)
        for i, prompt in enumerate(prompts()):
            plain = causal(input_ids=torch.tensor([list(prompt.ids)]), use_cache=False).logits[0, -1]
            assert torch.allclose(one.states[i, 0], plain, atol=1e-5)
        first, second = node_stage(causal, batch, None, one), node_stage(causal, other, None, two)
    assert torch.equal(first[:, 0], second[:, 0])
    assert float((first[:, 1:] - second[:, 1:]).abs().max()) > 1e-2, "the second does"


def test_the_batch_says_where_to_read() -> None:
    some = [PromptTokens(p.ids, len(p.ids) // 2) for p in prompts()]
    batch = tree_batch(some, TREE, 0, tiny.tiny_llama())
    for i, prompt in enumerate(some):
        assert batch.input_ids[i, batch.read[i]] == prompt.ids[prompt.read]
        start = max(LENGTHS) - len(prompt.ids)
        assert batch.positions[i, start : max(LENGTHS)].tolist() == list(range(len(prompt.ids)))
        depths = [len(prompt.ids) - 1 + d for d in TREE.node_depths]
        assert batch.positions[i, max(LENGTHS) :].tolist() == depths


def test_one_token_openings_need_no_nodes() -> None:
    model = tiny.tiny_llama()
    tree = build_tree([(10,), (11,)], [(12,)])
    with torch.no_grad():
        found = read_openings(tree_logits(model, tree_batch(prompts(), tree, 0, model)), tree)
        expected = [alone.readings_alone(model, p.ids, [(10,), (11,)], [(12,)]).mass for p in prompts()]
    assert torch.allclose(found.mass, torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_attentions_understand_the_mask(attention: str) -> None:
    """A boolean 4D mask is silently wrong under eager attention; ours is additive."""
    model: Any = tiny.tiny_llama()
    model.set_attn_implementation(attention)
    found = read_openings(logits_of(model, prompts()), TREE)
    with torch.no_grad():
        expected = [alone.readings_alone(model, p.ids, OURS, OTHERS).mass for p in prompts()]
    assert torch.allclose(found.mass, torch.stack(expected), atol=1e-5)


def sliding(family: str) -> Any:
    """A model whose layers (Mistral: all, Qwen2: the last two) see a window of six tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    window = {
        "sliding_window": 6,
        **({"use_sliding_window": True, "max_window_layers": 1} if family == "qwen2" else {}),
    }
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return auto.from_config(AutoConfig.for_model(family, **sizes, **heads, **window, **tokens)).eval()


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_prompts_longer_than_a_sliding_window(family: str) -> None:
    """transformers takes a 4D mask as it is and forgets the window; the prompts here are shorter and longer than it."""
    model = sliding(family)
    found = read_openings(logits_of(model, prompts()), TREE)
    with torch.no_grad():
        expected = torch.stack([alone.readings_alone(model, p.ids, OURS, OTHERS).mass for p in prompts()])
        assert torch.allclose(found.mass, expected, atol=1e-5)
        batch = tree_batch(prompts(), TREE, 0, model)
        masks = batch.attention if isinstance(batch.attention, dict) else {"sliding_attention": batch.attention}
        assert set(masks) == ({"sliding_attention"} if family == "mistral" else {"sliding_attention", "full_attention"})
        whole = tree_batch(prompts(), TREE, 0, tiny.tiny_llama()).attention
        forgetful = tree_logits(model, replace(batch, attention=whole))
    assert float((read_openings(forgetful, TREE).mass - expected).abs().max()) > 0.01
    short = tree_batch([p for p in prompts() if len(p.ids) < 4], TREE, 0, model)
    assert isinstance(short.attention, Tensor), "within the window there is one mask"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_and_finite(dtype: torch.dtype) -> None:
    exact = read_openings(logits_of(tiny.tiny_llama(), prompts()), TREE)
    found = read_openings(logits_of(tiny.tiny_llama().to(dtype), prompts()).float(), TREE)
    assert torch.allclose(found.mass, exact.mass, atol=0.5)
    assert torch.allclose(found.openings, exact.openings, atol=1.0)


class Wrapper(nn.Module):
    """As DistributedDataParallel holds a model: one child, nothing passed on."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Compiled(nn.Module):
    """As torch.compile holds a model: one child, all attributes passed on."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._orig_mod = original

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "_orig_mod" else getattr(super().__getattr__("_orig_mod"), name)


def test_the_causal_model_is_found_inside_its_wrappers() -> None:
    llama = tiny.tiny_llama()
    peft = tiny.tiny_lora(tiny.tiny_llama())
    inside = peft.get_base_model()  # type: ignore[operator]
    assert inner_causal(llama) is llama
    for wrap in (Wrapper, Compiled):
        assert inner_causal(wrap(llama)) is llama
        assert inner_causal(wrap(peft)) is inside
    assert inner_causal(Wrapper(Compiled(llama))) is llama
    assert hasattr(Compiled(llama), "config"), "a compiled model looks like the one inside"


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), Wrapper(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))])
def test_what_is_no_causal_model_is_named(wrong: nn.Module) -> None:
    with pytest.raises(PrerequisiteError, match="a causal language model"):
        inner_causal(wrong)


def test_a_headless_model_is_refused() -> None:
    headless = tiny.tiny_llama().get_submodule("model")
    with pytest.raises(PrerequisiteError, match="LlamaModel"):
        inner_causal(headless)


def same(one: Readings, other: Readings) -> bool:
    names = ("openings", "log_probability", "mass", "contrast")
    return all(torch.allclose(getattr(one, n), getattr(other, n), atol=1e-5) for n in names)


def test_read_behaviour_keeps_order_and_leaves_training_alone() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama(), dropout=0.5).train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = read_behaviour(model, BEHAVIOUR, prompts(), 0, batch_size=3)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.mass.requires_grad
    assert same(found, read_openings(logits_of(model.eval(), prompts()), TREE))
    assert not same(found, read_openings(logits_of(model, prompts()[::-1]), TREE))


class Unmasked(nn.Module):
    """A causal model that hears of no mask, as recurrent ones, or that cannot take one."""

    def __init__(self, inside: Any, error: Exception | None = None) -> None:
        super().__init__()
        self.inside, self.error, self.config = inside, error, inside.config

    def get_output_embeddings(self) -> Any:
        return self.inside.get_output_embeddings()

    def forward(self, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if attention_mask is not None and self.error is not None:
            raise self.error
        return self.inside(**kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_follows_the_mask_passes_the_check(model: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    check_reading(model.to(dtype), BEHAVIOUR, prompts(), 0)
    assert torch.equal(torch.get_rng_state(), state)
    model.to(torch.float32)


def test_a_model_that_does_not_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match=r"Unmasked: found readings that differ by .* nats.*attention layers"):
        check_reading(Unmasked(tiny.tiny_llama()), BEHAVIOUR, prompts(), 0)
    error = ValueError("too many values to unpack")
    with pytest.raises(PrerequisiteError, match=r"Unmasked: found ValueError \(too many values.*4D attention mask"):
        check_reading(Unmasked(tiny.tiny_llama(), error), BEHAVIOUR, prompts(), 0)


def test_the_check_leaves_nan_to_the_measurement() -> None:
    broken: Any = tiny.tiny_llama()
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    check_reading(broken, BEHAVIOUR, prompts(), 0)


@pytest.mark.parametrize(
    ("tail", "word", "is_said"),
    [
        ("assistant:", "<think>", True),
        ("assistant:", "<|thinking|>", True),
        ("assistant:", "[THINK]", True),
        ("assistant: <think>\n", "Well", True),
        ("assistant: <think>\n\n</think>\n\n", "Well", False),
        ("what do you <think> of it? assistant:", "Think", False),
    ],
)
def test_a_model_that_thinks_first_is_told_of(
    tail: str, word: str, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What is likeliest behind a prompt is what `word` is to the tokenizer."""
    model, prompt = tiny.tiny_llama(), prompts()[0]
    likeliest = int(model(input_ids=torch.tensor([prompt.ids])).logits[0, -1].argmax())
    seen: list[list[int]] = []

    def decode(ids: list[int]) -> str:
        seen.append(ids)
        return tail if len(seen) == 1 else word

    check_lead(model, SimpleNamespace(decode=decode), prompt)
    assert seen[0] == list(prompt.ids[-12:])
    assert seen[1:] in ([], [[likeliest]])
    assert ("behaviour.lead" in caplog.text) == is_said
