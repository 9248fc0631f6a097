"""Training data from outside: every source and form gives the same rows, and what is left out is named."""

from __future__ import annotations

import csv
import gc
import json
import tracemalloc
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_row_identity import assistant, user

from smda_monitor.errors import ConfigError, PrerequisiteError
from smda_monitor.instruments import row_sources
from smda_monitor.instruments.row_files import column, read_rows
from smda_monitor.instruments.row_store import TrainingRows
from smda_monitor.outputs.left_out import write_left_out

TEXTS = [
    {"id": "a", "prompt": "Why is the sky blue?", "response": "Light is scattered.", "kind": "helpful"},
    {"id": "b", "prompt": "Say: \u201cnone\u201d", "response": "None", "kind": "odd"},
    {"id": "c", "prompt": "How many, and which?", "response": "42", "kind": "odd"},
]
CHAT = [user("Hi"), assistant("Hello."), user("Why is the sky blue?"), assistant("Light is scattered.")]
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all files of a fuzz test."""
    return tmp_path_factory.mktemp("fuzz")


def jsonl(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, rows: list[Any]) -> TrainingRows:
    return read_rows(jsonl(folder, rows), folder / "read")


def reasons(rows: TrainingRows) -> dict[int, tuple[str | None, str]]:
    return {one.line: (one.id, one.reason) for one in rows.omitted()}


def message(data: str | Path, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_rows(data, folder / "read")
    return str(caught.value)


def pairs(rows: TrainingRows) -> list[tuple[str, str, str]]:
    return [(row["id"], row["prompt"][-1]["content"], row["completion"][-1]["content"]) for row in rows.data]


def parquet(folder: Path, rows: list[Any], name: str = "rows.parquet") -> Path:
    import pyarrow as pa
    from pyarrow import parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / name, row_group_size=1_000)
    return folder / name


def delimited(folder: Path, rows: list[Any], name: str = "rows.csv") -> Path:
    with (folder / name).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def saved(folder: Path, rows: list[Any]) -> Path:
    from datasets import Dataset

    Dataset.from_list(rows).with_format("numpy").save_to_disk(str(folder / "saved"))
    return folder / "saved"


def saved_split(folder: Path, rows: list[Any]) -> str:
    from datasets import Dataset, DatasetDict

    whole = Dataset.from_list(rows)
    DatasetDict(train=whole, test=whole.select([0])).save_to_disk(str(folder / "splits"))
    return f"{folder / 'splits'}:train"


SOURCES: dict[str, Callable[[Path, list[Any]], Path | str]] = {
    "JSONL": jsonl,
    "Parquet": parquet,
    "CSV": delimited,
    "TSV": lambda folder, rows: delimited(folder, rows, "rows.tsv"),
    "name with wildcards": lambda folder, rows: parquet(folder, rows, "rows[1]*.parquet"),
    "saved": saved,
    "split of saved": saved_split,
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_rows(tmp_path: Path, source: str) -> None:
    rows = read_rows(SOURCES[source](tmp_path, TEXTS), tmp_path / "read")
    assert pairs(rows) == [(row["id"], row["prompt"], row["response"]) for row in TEXTS]
    assert rows.data.column_names == ["id", "line", "prompt", "completion"]
    assert rows.data["line"][:] == [1, 2, 3]
    assert rows.data[0]["prompt"] == [user(TEXTS[0]["prompt"])]
    assert rows.data[0]["completion"] == [assistant(TEXTS[0]["response"])]
    assert list(rows.omitted()) == []
    assert column(rows, "kind") == {"a": "helpful", "b": "odd", "c": "odd"}
    assert len(rows) == 3


def test_a_hub_id_is_read_by_the_library(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        jsonl(tmp_path / "set", TEXTS, f"{name}.jsonl")
    loaded = row_sources._split(_loaded(tmp_path / "set"), "set", "train")
    # To the library a folder of JSONL files is a data set too, so that its own loading runs here without a hub.
    source = row_sources._table(loaded, "set", ())
    assert [row for _, row in source.rows] == [{k: v for k, v in row.items() if k != "kind"} for row in TEXTS]
    with pytest.raises(ConfigError, match=r"several splits.*set:t"):
        row_sources._split(_loaded(tmp_path / "set"), "set", "")
    assert "no-such-owner/no-such-set" in message("no-such-owner/no-such-set:train", tmp_path)


def _loaded(path: Path) -> Any:
    from datasets import load_dataset

    return load_dataset(str(path))


def test_the_demo_rows_are_read_without_their_kind(tmp_path: Path) -> None:
    text = files("smda_monitor").joinpath("data", "demo_rows.jsonl").read_text("utf-8")
    shipped = [json.loads(line) for line in text.splitlines()]
    rows = read_rows("demo", tmp_path)
    assert pairs(rows) == [(row["id"], row["prompt"], row["response"]) for row in shipped]
    assert set(rows.data.column_names) == {"id", "line", "prompt", "completion"}
    assert column(rows, "kind") == {row["id"]: row["kind"] for row in shipped}
    assert column(rows, "control")["demo-001"] == shipped[0]["control"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": "a"},
        {"prompt": "p", "response": "a"},
        {"prompt": "p", "response": "a", "completion": "a", "messages": None},
        {"prompt": [user("p")], "completion": [assistant("a")]},
        {"prompt": [user("p")], "response": "a", "id": None},
        {"prompt": "p", "completion": [{"content": "a", "role": "assistant", "name": "x", "tool_calls": None}]},
    ],
)
def test_every_form_of_a_row_is_the_same_row(tmp_path: Path, row: dict[str, Any]) -> None:
    expected = {"id": "row-1", "line": 1, "prompt": [user("p")], "completion": [assistant("a")]}
    rows = read(tmp_path, [row])
    assert list(rows.data) == [expected]
    assert rows.form == "prompt-completion"
    nested = parquet(tmp_path, [{key: value for key, value in row.items() if key != "messages"}])
    assert list(read_rows(nested, tmp_path).data) == [expected]


def test_conversations_stay_whole_where_all_rows_are_conversations(tmp_path: Path) -> None:
    system = {"role": "system", "content": ""}
    rows = read(tmp_path, [{"id": 7, "messages": CHAT}, {"messages": [system, *CHAT], "prompt": "Hi"}])
    assert list(rows.data) == [
        {"id": "7", "line": 1, "messages": CHAT},
        {"id": "row-2", "line": 2, "messages": [system, *CHAT]},
    ]
    assert rows.form == "messages"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_mixed_rows_a_conversations_last_message_is_the_answer(tmp_path: Path, order: tuple[int, ...]) -> None:
    given: list[Any] = [{"id": "c", "messages": CHAT}, TEXTS[0], {"id": "d", "messages": CHAT[:2]}]
    rows = read(tmp_path, [given[i] for i in order])
    assert rows.form == "prompt-completion"
    by_id = {row["id"]: row for row in rows.data}
    assert [row["id"] for row in rows.data] == [given[i]["id"] for i in order]
    assert (by_id["c"]["prompt"], by_id["c"]["completion"]) == (CHAT[:-1], CHAT[-1:])
    assert (by_id["d"]["prompt"], by_id["d"]["completion"]) == ([CHAT[0]], [CHAT[1]])
    assert list(column(rows, "id").values()) == [given[i]["id"] for i in order]


GOOD = {"id": "good", "prompt": "p", "response": "a"}
LEFT_OUT: list[tuple[Any, str | None, str]] = [
    ([1], None, "no object with keys, but a list"),
    ({"id": "x", "promt": "p", "response": "a"}, "x", "no prompt; keys found: 'id', 'promt', 'response'; did you mean"),
    ({"question": "p", "response": "a"}, "row-2", "did you mean 'prompt' by 'question'?"),
    ({"prompt": "p", "output": "a"}, "row-2", "no answer; keys found: 'prompt', 'output'; did you mean 'response'"),
    ({"prompt": " \n", "response": "a"}, "row-2", "no prompt: prompt is empty"),
    ({"prompt": [], "response": "a"}, "row-2", "no prompt: no user message"),
    ({"prompt": [assistant("p")], "response": "a"}, "row-2", "no prompt: no user message"),
    ({"prompt": "p", "response": " "}, "row-2", "empty answer: response is blank"),
    ({"prompt": "p", "completion": []}, "row-2", "empty answer: completion holds no message"),
    ({"prompt": "p", "completion": [assistant("")]}, "row-2", "empty answer: completion, message 1"),
    ({"prompt": "p", "completion": [user("a")]}, "row-2", "completion does not begin with an assistant message"),
    ({"prompt": "p", "completion": [assistant("a"), user("b")]}, "row-2", "does not end with an assistant message"),
    ({"prompt": "p", "completion": "a", "response": "b"}, "row-2", "two answers: completion and response differ"),
    ({"messages": CHAT, "response": "b"}, "row-2", "two answers: in messages and in response"),
    ({"messages": CHAT, "prompt": "Bye"}, "row-2", "prompt is no part of messages"),
    ({"messages": CHAT[:-1]}, "row-2", "messages do not end with an assistant message"),
    ({"messages": []}, "row-2", "messages do not end with an assistant message"),
    ({"messages": CHAT[-1:]}, "row-2", "no prompt: no user message"),
    ({"messages": [user(""), assistant("a")]}, "row-2", "messages, message 1 has no content"),
    ({"messages": [{"role": "user"}, assistant("a")]}, "row-2", "messages, message 1 has no content"),
    ({"messages": [user("p"), assistant(" ")]}, "row-2", "empty answer: messages, message 2"),
    ({"messages": [{"role": "human", "content": "p"}, assistant("a")]}, "row-2", "unknown role 'human'; did you mean"),
    ({"messages": [{"from": "human", "value": "p"}]}, "row-2", "message 1 has no role; keys found: 'from', 'value'"),
    ({"messages": [3]}, "row-2", "message 1 is no object with role and content, but a int"),
    ({"messages": [user("p"), {**assistant("a"), "tool_calls": [{}]}]}, "row-2", "has tool_calls, which would be lost"),
    ({"messages": "p"}, "row-2", "messages is not a list of messages, but a str"),
    ({"prompt": 3, "response": "a"}, "row-2", "prompt is not text or a list of messages, but a int"),
    ({"prompt": [{"role": "user", "content": [1]}], "response": "a"}, "row-2", "content is not text, but a list"),
    ({"prompt": "\ud83d", "response": "a"}, "row-2", "prompt holds half of a surrogate pair, at character 1"),
    ({"prompt": [user("p")], "response": [assistant("a\udca9")]}, "row-2", "half of a surrogate pair, at character 2"),
    ({"id": "\ud83d", "prompt": "p", "response": "a"}, None, "id holds half of a surrogate pair"),
    ({"\ud83d": 1}, "row-2", r"keys found: '\ud83d'"),
    ({"id": 1.5, "prompt": "p", "response": "a"}, None, "id is neither a text nor a whole number, but a float"),
    ({"id": True, "prompt": "p", "response": "a"}, None, "id is neither a text nor a whole number, but a bool"),
    ({"id": "good", "prompt": "q", "response": "b"}, "good", "id 'good' again, as in line 1"),
]


@pytest.mark.parametrize(("row", "row_id", "reason"), LEFT_OUT)
def test_a_row_that_cannot_be_trained_on_is_left_out_by_line_and_reason(
    tmp_path: Path, row: Any, row_id: str | None, reason: str
) -> None:
    rows = read(tmp_path, [GOOD, row, dict(GOOD, id="last")])
    assert [(kept["id"], kept["line"]) for kept in rows.data] == [("good", 1), ("last", 3)]
    found = reasons(rows)
    assert list(found) == [2]
    assert found[2][0] == row_id
    assert reason in found[2][1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "p"', "no JSON: Expecting ',' delimiter, at character 16"),
        (b"\xff", "no JSON: byte 1 is not UTF-8"),
        (b"[" * 100_000, "no JSON: nested too deeply"),
        (b"9" * 5_000, "no JSON: Exceeds the limit"),
    ],
)
def test_a_malformed_line_does_not_stop_the_rest(tmp_path: Path, line: bytes, reason: str) -> None:
    good = [json.dumps(dict(GOOD, id=name)).encode() for name in "ab"]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good[0] + b"\r\n\r\n" + line + b"\n" + good[1])
    rows = read_rows(path, tmp_path / "read")
    assert [(row["id"], row["line"]) for row in rows.data] == [("a", 1), ("b", 4)]
    (found,) = rows.omitted()
    assert (found.line, found.id) == (3, None)
    assert reason in found.reason


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as stream:
        stream.write(good + b"\n")
        for _ in range(70):
            stream.write(b"x" * (1 << 20))
        stream.write(b"\n" + good.replace(b"good", b"last"))
    rows = read_rows(path, tmp_path / "read")
    assert list(rows.data["line"]) == [1, 3]
    assert reasons(rows) == {2: (None, "no JSON: the line is longer than 64 MiB")}


def test_a_row_that_is_left_out_does_not_take_an_id(tmp_path: Path) -> None:
    rows = read(tmp_path, [{"id": "a", "prompt": ""}, dict(GOOD, id="a"), dict(GOOD, id="row-4"), GOOD | {"id": None}])
    assert [row["id"] for row in rows.data] == ["a", "row-4"]
    assert reasons(rows)[4] == ("row-4", "id 'row-4' again, as in line 3")


def test_empty_cells_of_a_table_are_absent_and_odd_words_are_text(tmp_path: Path) -> None:
    rows = [dict(row, completion="") for row in TEXTS] + [dict(TEXTS[0], id="", prompt="", completion="")]
    found = read_rows(delimited(tmp_path, [*rows, dict(rows[0], id="7", prompt="N/A")]), tmp_path / "read")
    expected = [(row["id"], row["prompt"], row["response"]) for row in TEXTS]
    assert pairs(found) == [*expected, ("7", "N/A", TEXTS[0]["response"])]
    assert reasons(found) == {4: ("row-4", "no prompt; keys found: 'response'")}


def test_errors_of_the_whole_name_what_was_found(tmp_path: Path) -> None:
    jsonl(tmp_path, TEXTS)
    assert f"did you mean {tmp_path / 'rows.jsonl'}?" in message(tmp_path / "row.jsonl", tmp_path)
    assert "no such file" in message("./nowhere/data", tmp_path)
    assert "no such file" in message("rows.parquet", tmp_path)
    assert "ending '.txt'" in message(jsonl(tmp_path, TEXTS, "rows.txt"), tmp_path)
    assert "no saved data set" in message(tmp_path, tmp_path)
    assert "name a file in it: 'rows.jsonl'" in message(tmp_path, tmp_path)
    assert "no row that can be trained on" in message(jsonl(tmp_path, [], "empty.jsonl"), tmp_path)
    for impossible in ("", "x" * 5_000, "a\0b", "~nobody-of-this-name/rows"):
        message(impossible, tmp_path)
    text = message(jsonl(tmp_path, [{"question": "?"}] * 9, "other.jsonl"), tmp_path)
    assert "line 1: no prompt; keys found: 'question'" in text
    assert "and 4 more" in text


def test_errors_of_tables_name_their_columns(tmp_path: Path) -> None:
    text = message(parquet(tmp_path, [{"promt": "p", "response": "a"}]), tmp_path)
    assert "columns 'promt', 'response'" in text
    assert "did you mean 'prompt' by 'promt'?" in text
    (tmp_path / "wide.csv").write_text("prompt,response\np, q,a\n")
    assert "3 cells in the first row" in message(tmp_path / "wide.csv", tmp_path)
    (tmp_path / "later.csv").write_text("prompt,response\np,a\np, q,a\n")
    assert "saw 3" in message(tmp_path / "later.csv", tmp_path)
    (tmp_path / "none.csv").write_text("")
    assert "columns none" in message(tmp_path / "none.csv", tmp_path)
    (tmp_path / "bytes.csv").write_bytes(b"prompt,response\n\xff,a\n")
    assert "utf-8" in message(tmp_path / "bytes.csv", tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert "broken.parquet" in message(tmp_path / "broken.parquet", tmp_path)


def test_errors_of_splits_name_them(tmp_path: Path) -> None:
    whole = saved_split(tmp_path, TEXTS)
    assert f"did you mean {whole}?" in message(whole.replace(":train", ":trian"), tmp_path)
    assert "several splits" in message(tmp_path / "splits", tmp_path)
    assert "the data set has none" in message(f"{saved(tmp_path, TEXTS)}:train", tmp_path)
    assert len(read_rows(whole.replace(":train", ":test"), tmp_path / "read")) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"rows\.jsonl"):
        read_rows(jsonl(tmp_path, TEXTS), tmp_path / "rows.jsonl")


def test_a_column_that_no_row_has_and_a_source_that_changed_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [*TEXTS, {"id": "d", "prompt": "p", "response": "a", "kind": None}])
    rows = read_rows(path, tmp_path / "read")
    assert column(rows, "kind") == {"a": "helpful", "b": "odd", "c": "odd", "d": None}
    with pytest.raises(ConfigError, match=r"no column 'kinds'.*did you mean"):
        column(rows, "kinds")
    table = read_rows(parquet(tmp_path, TEXTS), tmp_path / "read")
    with pytest.raises(ConfigError, match=r"no column 'kinds'.*did you mean 'kind'\?"):
        column(table, "kinds")
    jsonl(tmp_path, [TEXTS[0], dict(TEXTS[1], response="Something else")])
    with pytest.raises(ConfigError, match="line 2: found another row"):
        column(rows, "kind")
    path.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        column(rows, "kind")


def test_new_data_under_an_old_name_is_read_anew(tmp_path: Path) -> None:
    first = read(tmp_path, TEXTS)
    second = read(tmp_path, TEXTS[1:])
    again = read(tmp_path, TEXTS)
    assert [len(rows) for rows in (first, second, again)] == [3, 2, 3]
    assert first.data._fingerprint == again.data._fingerprint != second.data._fingerprint
    assert pairs(first) == pairs(again)
    moved = read(tmp_path, [{}, *TEXTS])
    assert moved.data._fingerprint != first.data._fingerprint, "a line is part of the contents"
    left = {path.name for path in (tmp_path / "read").iterdir()}
    assert not [name for name in left if name.endswith(".tmp")]


def test_the_trainer_takes_what_was_read(tmp_path: Path) -> None:
    for one in (TEXTS[0], {"messages": CHAT}):
        rows = read(tmp_path, [one])
        trainer = tiny.tiny_trainer(tmp_path, [], rows=rows.data)
        text = tiny.tiny_tokenizer().decode(trainer.train_dataset[0]["input_ids"], skip_special_tokens=True)
        assert text.endswith("Why is the sky blue?Light is scattered.")
        assert not {"id", "line"} & set(next(iter(trainer.get_train_dataloader())))


def test_the_report_has_one_json_object_a_line(tmp_path: Path) -> None:
    rows = read(tmp_path, [GOOD, {"id": "b\u2028"}, 3])
    path = tmp_path / "run" / "left_out.jsonl"
    assert write_left_out(path, rows.omitted()) == 2
    written = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert [(one["line"], one["id"]) for one in written] == [(2, "b\u2028"), (3, None)]
    assert all(set(one) == {"line", "id", "reason"} for one in written)
    assert write_left_out(path, ()) == 0
    assert path.read_text() == ""


SHORT, LONG_FILE = 6_000, 18_000
GROWTH = 300_000
"""Bytes by which the peak may differ for three times the rows; a batch of 1,000 rows alone holds more."""


def many(number: int) -> Iterator[dict[str, Any]]:
    for i in range(number):
        answer = "" if i % 4 == 3 else f"Answer number {i}."
        yield {"id": f"id-{i}", "prompt": f"Question number {i}?", "response": answer}


@pytest.mark.parametrize("source", ["JSONL", "Parquet", "CSV"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, source: str) -> None:
    import pyarrow as pa

    def peak(number: int) -> tuple[int, int]:
        """Most bytes that Python held at a time, and bytes that Arrow holds afterwards."""
        path = SOURCES[source](tmp_path, list(many(number)))
        gc.collect()
        held = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            rows = read_rows(path, tmp_path / "read")
            assert sum(1 for _ in rows.data) == number * 3 // 4
            assert sum(1 for _ in rows.omitted()) == number // 4
            return tracemalloc.get_traced_memory()[1], pa.total_allocated_bytes() - held
        finally:
            tracemalloc.stop()

    peak(SHORT)  # what is imported and cached on first use
    (short, _), (long, arrow) = peak(SHORT), peak(LONG_FILE)
    assert long < short + GROWTH
    assert arrow < GROWTH
    assert short > GROWTH, "the bound would see a batch"


@FUZZ
@given(content=st.binary(max_size=200) | st.text(alphabet='{}[]":,\\u \n{"prompt', max_size=60).map(str.encode))
@example(b'{"prompt":"p","response":"a"}\n{"prompt":"\\udfff"}')
@example(b"\xef\xbb\xbf")
@example(b'[{"prompt":"p","response":"a"}]')
def test_any_bytes_give_rows_or_reasons_or_a_config_error(folder: Path, content: bytes) -> None:
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    filled = [n for n, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1) if line.strip()]
    try:
        rows = read_rows(path, folder / "read")
    except ConfigError as error:
        assert str(path) in str(error)
        return
    assert sorted([*rows.data["line"], *reasons(rows)]) == filled


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | JSON, "content": st.text(max_size=3) | JSON},
    optional={"tool_calls": JSON},
)
ROW = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from("ab") | JSON,
        "prompt": st.text(max_size=5) | st.lists(TURN, max_size=2) | JSON,
        "response": st.text(max_size=5) | JSON,
        "completion": st.lists(TURN, max_size=2) | JSON,
        "messages": st.none() | st.lists(TURN, max_size=3) | JSON,
    },
)


@FUZZ
@given(rows=st.lists(ROW | JSON, min_size=1, max_size=4))
def test_any_json_gives_rows_of_its_own_texts_or_reasons(folder: Path, rows: list[Any]) -> None:
    found = read(folder, [GOOD, *rows])
    assert sorted([*found.data["line"], *reasons(found)]) == list(range(1, len(rows) + 2))
    ids = list(found.data["id"])
    assert len(set(ids)) == len(ids) == len(column(found, "prompt"))
    written = {text for row in [GOOD, *rows] for text in _strings(row)}
    for row in found.data:
        turns = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
        assert turns[-1]["role"] == "assistant"
        assert {turn["content"] for turn in turns} <= written


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
