"""Prompts as tokens: the generation prompt, the read position, and the own prompt of a training row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from smda_monitor.errors import ConfigError, PrerequisiteError
from smda_monitor.instruments.chat import (
    PromptTokens,
    check_tokenizer,
    end_of_prompt,
    generation_prompt,
    own_prompt,
    prompt_tokens,
)

USER, END, ANSWER = 1, 2, 3
CHATML = (
    "<|user|>be kind<|end|>\n"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}<|end|>\n"
    "{% else %}<|answer|>\n{{ message['content'] }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>\n{% endif %}"
)
"""A system prompt of its own, and line feeds after each turn and after the answer's mark, as many real templates."""


def with_template(template: str | None) -> Any:
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def conversation(tokenizer: Any, *turns: str) -> list[int]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return list(tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"])


@pytest.mark.parametrize("template", [tiny.CHAT, CHATML])
def test_the_answer_starts_after_the_last_token(template: str) -> None:
    tokenizer = with_template(template)
    found = prompt_tokens(tokenizer, "how are you", "last_prompt_token")
    assert found.read == len(found.ids) - 1
    row = conversation(tokenizer, "how are you", "well")
    assert tuple(row[: len(found.ids)]) == found.ids
    assert tokenizer.decode(row[len(found.ids) :]).startswith("well")


@pytest.mark.parametrize(("template", "after"), [(tiny.CHAT, 1), (CHATML, 3)])
def test_the_users_end_of_turn_is_the_papers_position(template: str, after: int) -> None:
    tokenizer = with_template(template)
    found = prompt_tokens(tokenizer, "how are you", "last_user_token")
    assert found.ids == prompt_tokens(tokenizer, "how are you", "last_prompt_token").ids
    assert found.ids[found.read] == END
    assert len(found.ids) - 1 - found.read == after, "white space and the answer's mark come after it"
    assert tokenizer.decode(list(found.ids[: found.read])).endswith("how are you")


def test_a_prompt_that_ends_in_white_space_keeps_its_end_of_turn() -> None:
    found = prompt_tokens(with_template(CHATML), "well\n\n", "last_user_token")
    assert found.ids[found.read] == END


def test_missing_template_and_pad_token_are_named() -> None:
    check_tokenizer(tiny.tiny_tokenizer())
    with pytest.raises(PrerequisiteError, match="found no chat template"):
        check_tokenizer(with_template(None))
    without = tiny.tiny_tokenizer()
    without.pad_token = None
    with pytest.raises(PrerequisiteError, match="found no pad token"):
        check_tokenizer(without)
    with pytest.raises(PrerequisiteError, match="tokenizer some/name"):
        check_tokenizer(SimpleNamespace(name_or_path="some/name", chat_template=None))


def test_pad_token_number_0_is_one() -> None:
    tokenizer = tiny.tiny_tokenizer()
    assert tokenizer.pad_token_id == 0
    check_tokenizer(tokenizer)


def test_a_template_that_rewrites_the_turn_is_refused_for_the_papers_position() -> None:
    tokenizer = with_template("{% if add_generation_prompt %}!{% endif %}{{ messages[0]['content'] }}")
    assert prompt_tokens(tokenizer, "hello", "last_prompt_token").read == 5
    with pytest.raises(PrerequisiteError, match=r"rewrites the user's turn.*last_prompt_token"):
        prompt_tokens(tokenizer, "hello", "last_user_token")


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="found no tokens"):
        prompt_tokens(with_template("{{ messages[0]['content'] }}"), "", "last_prompt_token")


@pytest.mark.parametrize("position", ["last_prompt_token", "last_user_token"])
@pytest.mark.parametrize("template", [tiny.CHAT, CHATML])
def test_a_rows_own_prompt_is_read_as_a_probe_is(template: str, position: str) -> None:
    tokenizer = with_template(template)
    like = prompt_tokens(tokenizer, "a probe of another length", position)
    expected = prompt_tokens(tokenizer, "mine", position)
    row = conversation(tokenizer, "mine", "an answer")
    opening = generation_prompt(tokenizer)
    assert own_prompt(row, len(expected.ids), like, opening) == expected
    assert own_prompt(row, 0, like, opening) == expected, "it ends where the answer opens"


@pytest.mark.parametrize("position", ["last_prompt_token", "last_user_token"])
def test_in_a_conversation_the_last_turn_before_the_answer_counts(position: str) -> None:
    tokenizer = with_template(CHATML)
    like = prompt_tokens(tokenizer, "a probe", position)
    row = conversation(tokenizer, "one", "two", "three", "four")
    first_label = len(conversation(tokenizer, "one", "two", "three")) + 2  # the answer's mark and its line feed
    found = own_prompt(row, first_label, like, generation_prompt(tokenizer))
    assert found is not None
    assert found.ids == tuple(row[:first_label])
    if position == "last_user_token":
        assert found.ids[found.read] == END
        assert tokenizer.decode(list(found.ids[: found.read])).endswith("three")
    else:
        assert found.read == first_label - 1


def test_a_row_without_prompt_has_no_own_prompt() -> None:
    like = PromptTokens((USER, 50, END, ANSWER), 2)
    assert own_prompt([USER, 50, END, ANSWER, 60], 0, like, []) is None, "no template"
    assert own_prompt([USER, 50, END, 60], 0, like, [ANSWER]) is None, "a text without an answer"
    assert own_prompt([USER, 50, END, ANSWER, 60], -1, like, [ANSWER]) is None, "nothing is trained on"
    assert own_prompt([USER, 50, ANSWER, 60], 3, like, [ANSWER]) is None, "no end of turn before the answer"
    assert own_prompt([USER, 50, ANSWER, 60, END], 3, like, [ANSWER]) is None, "the one after it is the answer's own"


@pytest.mark.parametrize("position", ["last_prompt_token", "last_user_token"])
def test_where_all_tokens_carry_loss_the_last_answer_of_a_conversation_counts(position: str) -> None:
    tokenizer = with_template(CHATML)
    like, opening = prompt_tokens(tokenizer, "a probe", position), generation_prompt(tokenizer)
    row = conversation(tokenizer, "one", "two", "three", "four")
    start = len(conversation(tokenizer, "one", "two", "three")) + 2
    assert own_prompt(row, 0, like, opening) == own_prompt(row, start, like, opening)
    assert end_of_prompt(opening, row, last=True) == start
    assert end_of_prompt(opening, row) == len(conversation(tokenizer, "one")) + 2, "the first is another place"


LEAD = (100, 101, 102)
"""Tokens that stand before every answer's words."""


@pytest.mark.parametrize("template", [tiny.CHAT, CHATML])
def test_a_lead_stands_behind_the_generation_prompt(template: str) -> None:
    tokenizer = with_template(template)
    plain, led = (prompt_tokens(tokenizer, "how are you", "last_prompt_token", lead) for lead in ((), LEAD))
    assert led.ids == (*plain.ids, *LEAD)
    assert led.asked == plain.ids == plain.asked
    assert led.read == len(led.ids) - 1, "the token behind which an opening is read"
    turn = prompt_tokens(tokenizer, "how are you", "last_user_token", LEAD)
    assert turn.ids == led.ids
    assert turn.read == prompt_tokens(tokenizer, "how are you", "last_user_token").read


@pytest.mark.parametrize("position", ["last_prompt_token", "last_user_token"])
@pytest.mark.parametrize("answer", [(), LEAD], ids=["answers without it", "answers with it"])
def test_a_row_is_read_behind_the_lead_too(position: str, answer: tuple[int, ...]) -> None:
    tokenizer = with_template(CHATML)
    like, expected = (prompt_tokens(tokenizer, text, position, LEAD) for text in ("a probe of another length", "mine"))
    row = [*expected.asked, *answer, 60, 61, END]
    for masked in (0, len(answer)):  # the lead in the answer, or in the prompt
        assert own_prompt(row, len(expected.asked) + masked, like, generation_prompt(tokenizer)) == expected
