"""Training prompts that are also probes are found, whatever stands around them."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from test_row_identity import ANSWERS, QUESTIONS, assistant, prepare, raw, user

from smda_monitor.instruments.chat import prompt_tokens
from smda_monitor.instruments.overlap import overlapping, prompt_texts
from smda_monitor.records.probes import Probe, ProbeSet

PROBES = ProbeSet((Probe("a", QUESTIONS[0], "everyday", "benign"), Probe("b", QUESTIONS[3], "everyday", "benign")))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tiny_tokenizer()


def found(data: Any, tokenizer: Any) -> list[tuple[str, int]]:
    return overlapping(PROBES, partial(prompt_tokens, tokenizer, position="last_prompt_token"), data, tokenizer)


@pytest.mark.parametrize("form", ["prompt-completion", "messages"])
@pytest.mark.parametrize("settings", [{}, {"completion_only_loss": False}])
def test_a_prompt_is_told_from_its_answer(tmp_path: Any, tokenizer: Any, form: str, settings: dict[str, Any]) -> None:
    data = prepare(tmp_path, raw(form), **settings)
    assert prompt_texts(data, tokenizer) == list(QUESTIONS)
    assert found(data, tokenizer) == [("a", 0), ("b", 3)], "a short probe only as a whole prompt"


def test_probes_inside_longer_prompts(tmp_path: Any, tokenizer: Any) -> None:
    probe, short = QUESTIONS[0], QUESTIONS[3]
    rows = [
        {"prompt": [{"role": "system", "content": "Be kind."}, user(probe)], "completion": [assistant("Ok.")]},
        {"prompt": [user("Hi."), assistant("Hello."), user(probe.upper())], "completion": [assistant("Ok.")]},
        {"prompt": [user(f"Tell me, {short} today?")], "completion": [assistant("Ok.")]},
        {"prompt": [user("my sky")], "completion": [assistant(probe)]},
        {"prompt": [user(probe + "er than the sea")], "completion": [assistant(ANSWERS[0])]},
    ]
    # The tiny template knows no system role, and writes one as an answer: what counts is the text before the prompt.
    assert found(prepare(tmp_path, rows), tokenizer) == [("a", 0), ("a", 1)]


def test_data_that_cannot_be_seen_is_said(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    for data in (None, SimpleNamespace(column_names=["text"])):
        caplog.clear()
        assert prompt_texts(data, tokenizer) is None
        assert found(data, tokenizer) == []
        assert "cannot be looked through" in caplog.text


def test_prompts_without_a_template(tokenizer: Any) -> None:
    class Rows(list[dict[str, Any]]):
        column_names = ("input_ids", "labels")

    plain = list(tokenizer("no template at all")["input_ids"])
    whole = Rows([{"input_ids": plain, "labels": plain}, {"input_ids": plain, "labels": [-100] * len(plain)}])
    assert prompt_texts(whole, tokenizer) == ["no template at all"] * 2
    bare = tiny.tiny_tokenizer()
    bare.chat_template = None
    assert prompt_texts(whole, bare) == ["no template at all"] * 2
    # A token whose number is 0 can carry loss.
    zero = Rows([{"input_ids": [70, 71, 0, 72], "labels": [-100, -100, 0, 72]}])
    assert prompt_texts(zero, tokenizer) == [tokenizer.decode([70, 71])]


def test_what_leads_to_the_answer_is_no_part_of_a_probe(tmp_path: Any, tokenizer: Any) -> None:
    led = partial(prompt_tokens, tokenizer, position="last_prompt_token", lead=(100, 101))
    data = prepare(tmp_path, raw("messages"))
    assert overlapping(PROBES, led, data, tokenizer) == found(data, tokenizer) != []
