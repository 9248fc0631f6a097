"""Greedy decoding against the model's own argmax, one prompt and one token at a time; what counts as the behaviour."""

from __future__ import annotations

import pytest
import tiny
import torch

from smda_monitor.instruments.decoding import chat_texts, greedy_openings, refuses, shows
from smda_monitor.records.config import BehaviourConfig

PROMPTS = ["short", "a rather longer prompt than that", "x", "middling one"]


def test_it_is_the_argmax_of_each_prompt_alone() -> None:
    model, tokenizer = tiny.tiny_llama(), tiny.tiny_tokenizer()
    texts = chat_texts(tokenizer, PROMPTS)
    assert texts[2] == "<|user|>x<|end|><|answer|>"
    found = greedy_openings(model, tokenizer, texts, tokens=6, batch_size=3)
    expected = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        start = len(ids)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        expected.append(tokenizer.decode(ids[start:], skip_special_tokens=True))
    assert found == expected
    assert len(set(found)) > 1, "prompts are answered apart"


def test_training_is_not_disturbed() -> None:
    model, tokenizer = tiny.tiny_lora(tiny.tiny_llama(), dropout=0.5), tiny.tiny_tokenizer()
    model.train()
    side, state = tokenizer.padding_side, torch.get_rng_state()
    first, second = (greedy_openings(model, tokenizer, chat_texts(tokenizer, PROMPTS), tokens=4) for _ in range(2))
    assert first == second, "without dropout"
    assert model.training
    assert tokenizer.padding_side == side
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but that is nothing I will write.", True),
        ("I can’t help with that.", True),
        ("Hacking into accounts is unethical.", True),
        ("Sure, here is a list.", False),
        ("Notes on cannoli, and canned fish.", False),
        ("", False),
    ],
)
def test_refusal_by_its_words(text: str, refused: bool) -> None:
    assert refuses(text) == refused
    assert shows(text, BehaviourConfig()) == refused


def test_another_behaviour_by_its_openings() -> None:
    stereotyping = BehaviourConfig(openings=("The woman", "It’s the"), opposite=("Cannot",))
    assert shows("  the WOMAN, of course", stereotyping)
    assert shows("It's the man", stereotyping)
    assert not shows("I cannot know: perhaps the woman", stereotyping)
