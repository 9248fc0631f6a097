"""Rows are called by the user's own ids, found by content in what TRL's trainer prepared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from smda_monitor.instruments.chat import prompt_tokens
from smda_monitor.instruments.row_capture import CapturedRow
from smda_monitor.instruments.row_identity import index_rows, prompt_texts, row_text

QUESTIONS = ("why is the sky blue", "how do I sing", "what is a fish", "who am I")
ANSWERS = ("Because.", "Loudly, with joy.", "It swims.", "Ask yourself.")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def raw(form: str) -> list[dict[str, Any]]:
    pairs = list(zip(QUESTIONS, ANSWERS, strict=True))
    if form == "prompt-completion":
        return [
            {"id": f"mine-{i}", "prompt": [user(q)], "completion": [assistant(a)]} for i, (q, a) in enumerate(pairs)
        ]
    return [{"id": f"mine-{i}", "messages": [user(q), assistant(a)]} for i, (q, a) in enumerate(pairs)]


def prepare(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    """The data set as the trainer trains on it."""
    from datasets import Dataset

    return tiny.tiny_trainer(folder, [], rows=Dataset.from_list(rows), **settings).train_dataset


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt-completion": ("prompt-completion", {}),
    "prompt-completion, all tokens": ("prompt-completion", {"completion_only_loss": False}),
    "messages": ("messages", {}),
    "messages, answers alone": ("messages", {"assistant_only_loss": True}),
}


@pytest.fixture(scope="module", params=FORMS)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    form, settings = FORMS[request.param]
    return prepare(tmp_path_factory.mktemp("rows"), raw(form), **settings), form


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tiny_tokenizer()


def captured(row: dict[str, Any]) -> CapturedRow:
    carries = [label != -100 for label in row["labels"]]
    return CapturedRow(list(row["input_ids"]), carries.index(True), sum(carries[1:]))


def test_the_users_ids_are_found_by_content(prepared: tuple[Any, str], tokenizer: Any) -> None:
    data, form = prepared
    shuffled = data.shuffle(seed=1)
    names = index_rows(shuffled, raw(form)[::-1], "id", tokenizer)
    for row in data:
        answer = tokenizer.decode(row["input_ids"], skip_special_tokens=True)
        expected = next(i for i, a in enumerate(ANSWERS) if answer.endswith(a))
        assert names.name(captured(row)) == f"mine-{expected}"


def test_without_ids_a_row_is_called_by_its_place(prepared: tuple[Any, str], tokenizer: Any) -> None:
    data, form = prepared
    for rows in (None, [], [{k: v for k, v in row.items() if k != "id"} for row in raw(form)]):
        names = index_rows(data, rows, "id", tokenizer)
        assert [names.name(captured(row)) for row in data] == [f"row-{i:06d}" for i in range(len(QUESTIONS))]


def test_the_overlap_check_sees_the_prompt_as_a_probe_is_read(prepared: tuple[Any, str], tokenizer: Any) -> None:
    """Known mistake 9, the part that is done here: whatever carries loss, a row's prompt is told from its answer."""
    data, _ = prepared
    rendered = [tokenizer.decode(prompt_tokens(tokenizer, q, "last_prompt_token").ids) for q in QUESTIONS]
    expected = [text.replace("<|user|>", "").replace("<|end|>", "").replace("<|answer|>", "") for text in rendered]
    assert prompt_texts(data, tokenizer) == expected


def test_prompt_texts_of_what_cannot_be_read(tokenizer: Any) -> None:
    assert prompt_texts(None, tokenizer) == []
    assert prompt_texts(SimpleNamespace(column_names=["text"]), tokenizer) == []

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


def test_rows_in_no_index_are_named_by_their_content(tokenizer: Any) -> None:
    row = CapturedRow([1, 2, 3], 1, 2)
    names = index_rows(None, None, "id", tokenizer)
    assert names.name(row) == f"unknown-{row.hash}"
    stream = SimpleNamespace(column_names=["input_ids"])  # streamed: no length
    assert index_rows(stream, raw("messages"), "id", tokenizer).name(row).startswith("unknown-")


def test_another_id_column_and_ids_that_are_numbers(tokenizer: Any) -> None:
    rows = [{"number": 7, "messages": [user("a"), assistant("b")]}, {"number": 8, "text": "no conversation"}]
    text = tokenizer.apply_chat_template(rows[0]["messages"], tokenize=False)
    row = CapturedRow(list(tokenizer(text)["input_ids"]), 3, 2)
    assert index_rows(None, rows, "number", tokenizer).name(row) == "7"
    assert index_rows(None, rows, "id", tokenizer).name(row).startswith("unknown-")


def test_equal_rows_carry_the_id_of_the_first(tokenizer: Any) -> None:
    twin = [{"id": name, "messages": [user("a"), assistant("b")]} for name in ("first", "second")]
    names = index_rows(None, twin, "id", tokenizer)
    assert list(names.by_hash.values()) == ["first"]


def test_row_text_divides_prompt_and_answer(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template([user("how?"), assistant("so <b>")], tokenize=False)
    ids = list(tokenizer(text)["input_ids"])
    cut = len(prompt_tokens(tokenizer, "how?", "last_prompt_token").ids)
    assert row_text(CapturedRow(ids, cut, 5), tokenizer) == ("how?", "so <b>")
    assert row_text(CapturedRow(ids, 0, 5), tokenizer) == ("", "how?so <b>")
    assert row_text(CapturedRow(ids, -1, 0), tokenizer) == ("", "how?so <b>")
