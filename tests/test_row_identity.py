"""Rows are called by the user's own ids, found by content in what TRL's trainer prepared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from test_chat import CHATML, with_template

from smda_monitor.errors import ConfigError
from smda_monitor.instruments.captured_rows import CapturedRow
from smda_monitor.instruments.chat import prompt_tokens
from smda_monitor.instruments.row_identity import index_rows, row_text

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
    data, _ = prepared
    for rows in (None, []):
        names = index_rows(data, rows, "id", tokenizer)
        assert [names.name(captured(row)) for row in data] == [f"row-{i:06d}" for i in range(len(QUESTIONS))]


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
    assert index_rows(None, rows[1:], "number", tokenizer).name(row).startswith("unknown-")


@pytest.mark.parametrize("form", ["text", "strings", "cut"])
def test_plain_and_cut_rows_are_found_too(tmp_path: Path, tokenizer: Any, form: str) -> None:
    settings: dict[str, Any] = {}
    if form == "text":
        rows = [
            {"id": f"mine-{i}", "text": f"{q} {a}"} for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
        ]
    elif form == "strings":
        rows = [
            {"id": f"mine-{i}", "prompt": q, "completion": f" {a}"}
            for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
        ]
    else:
        rows, settings = raw("messages"), {"max_length": 24}
    data = prepare(tmp_path, rows, **settings)
    names = index_rows(data, rows, "id", tokenizer, settings.get("max_length", 1024))
    assert [names.name(captured(row)) for row in data] == [f"mine-{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("my_rows.jsonl", "'my_rows.jsonl'.*not a path"),
        ([{"ident": 1, "messages": []}], "no column 'id' among ident, messages.*id_column"),
        (["a row"], "number 0: found str.*a mapping"),
    ],
)
def test_rows_that_are_none_are_named(tokenizer: Any, rows: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        index_rows(None, rows, "id", tokenizer)


def test_rows_of_another_data_set_are_said(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    data = prepare(tmp_path, raw("messages"))
    index_rows(data, raw("messages"), "id", tokenizer)
    assert caplog.text == ""
    index_rows(data, [{"id": 1, "messages": [user("other"), assistant("row")]}], "id", tokenizer)
    assert "None of the trainer's 4 rows" in caplog.text


def test_equal_rows_carry_the_id_of_the_first(tokenizer: Any) -> None:
    twin = [{"id": name, "messages": [user("a"), assistant("b")]} for name in ("first", "second")]
    names = index_rows(None, twin, "id", tokenizer)
    assert set(names.by_hash.values()) == {"first"}


def test_row_text_divides_prompt_and_answer(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template([user("how?"), assistant("so <b>")], tokenize=False)
    ids = list(tokenizer(text)["input_ids"])
    cut = len(prompt_tokens(tokenizer, "how?", "last_prompt_token").ids)
    assert row_text(CapturedRow(ids, cut, 5), tokenizer) == ("how?", "so <b>")
    assert row_text(CapturedRow(ids, 0, 5), tokenizer) == ("", "how?so <b>")
    assert row_text(CapturedRow(ids, -1, 0), tokenizer) == ("", "how?so <b>")


def test_the_templates_roles_are_no_part_of_a_prompt() -> None:
    tokenizer = with_template(CHATML)
    prompt = prompt_tokens(tokenizer, "how?", "last_prompt_token").ids
    text = tokenizer.apply_chat_template([user("how?"), assistant("so")], tokenize=False)
    row = CapturedRow(list(tokenizer(text)["input_ids"]), len(prompt), 2)
    shown, answer = row_text(row, tokenizer)
    assert (shown, answer.strip()) == ("how?", "so")
    several = [user("one"), assistant("two"), user("three")]
    talk = tokenizer.apply_chat_template(several, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer(talk)["input_ids"])
    shown, _ = row_text(CapturedRow([*ids, 70], len(ids), 1), tokenizer)
    assert [word for word in ("one", "two", "three") if word in shown] == ["one", "two", "three"]
    assert not any(token in shown for token in tokenizer.all_special_tokens)
