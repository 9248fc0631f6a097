"""Rows that are too long, and rows that are probes: told as the trainer and the monitor would tell them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_row_files import CHAT, jsonl, pairs, read, reasons
from test_row_identity import ANSWERS, QUESTIONS, assistant, user

from smda_monitor.errors import ConfigError
from smda_monitor.instruments.chat import prompt_tokens
from smda_monitor.instruments.overlap import LONG, overlapping
from smda_monitor.instruments.probe_files import normalise
from smda_monitor.instruments.row_choice import fitting, probe_rows, token_count, without_probes
from smda_monitor.instruments.row_files import read_rows
from smda_monitor.instruments.row_store import TrainingRows
from smda_monitor.records.probes import Probe, ProbeSet
from smda_monitor.records.training_row import ProbeRow

ROWS: list[dict[str, Any]] = [
    {"id": f"mine-{i}", "prompt": q, "response": a * (i + 1)}
    for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
]
PROBES = ProbeSet((Probe("a", QUESTIONS[0], "everyday", "benign"), Probe("b", QUESTIONS[3], "everyday", "benign")))
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def prepared(folder: Path, rows: TrainingRows) -> Any:
    """As the trainer trains on it."""
    return tiny.tiny_trainer(folder, [], rows=rows.data, max_length=None).train_dataset


@pytest.mark.parametrize("given", [ROWS, [{"messages": CHAT}, {"messages": CHAT[:2]}], [*ROWS, {"messages": CHAT}]])
def test_tokens_are_counted_as_the_trainer_makes_them(tmp_path: Path, given: list[Any]) -> None:
    rows = read(tmp_path, given)
    count = token_count(tiny.tiny_tokenizer())
    lengths = [len(ids) for ids in prepared(tmp_path, rows)["input_ids"]]
    assert [count(row) for row in rows.data] == lengths
    assert len(set(lengths)) > 1


def test_rows_that_do_not_fit_are_left_out_with_their_tokens(tmp_path: Path) -> None:
    rows = read(tmp_path, [{"id": "bad"}, *ROWS])
    lengths = {row["id"]: len(row["completion"][0]["content"]) for row in rows.data}
    limit = sorted(lengths.values())[-2]
    kept = fitting(rows, lambda row: lengths[row["id"]], limit)
    assert pairs(kept) == [pair for pair in pairs(rows) if lengths[pair[0]] <= limit]
    (long,) = set(lengths) - set(kept.data["id"])
    assert reasons(kept)[ROWS.index(next(r for r in ROWS if r["id"] == long)) + 2] == (
        long,
        f"{lengths[long]} tokens, more than the {limit} of max_length",
    )
    assert reasons(kept)[1] == reasons(rows)[1]
    assert kept.data._fingerprint != rows.data._fingerprint
    assert fitting(rows, lambda row: lengths[row["id"]], max(lengths.values())) is rows
    assert fitting(rows, lambda row: 1 << 40, None) is rows
    with pytest.raises(ConfigError, match=r"4 rows, none of which fits \('mine-0': 8 tokens"):
        fitting(rows, lambda row: lengths[row["id"]], 3)


def test_a_row_that_the_template_refuses_is_left_out(tmp_path: Path) -> None:
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + tiny.CHAT
    )
    rows = read(tmp_path, [*ROWS, {"messages": [{"role": "system", "content": "Be kind."}, *CHAT]}])
    kept = fitting(rows, token_count(tokenizer), 1_000)
    assert len(kept) == len(ROWS)
    assert reasons(kept) == {5: ("row-5", "cannot be made into tokens: the chat template refuses it (no system turn)")}


def test_rows_that_are_probes_are_the_ones_that_the_monitor_would_refuse(tmp_path: Path) -> None:
    probe, short = QUESTIONS[0], QUESTIONS[3]
    given = [
        *ROWS,
        {"prompt": [{"role": "system", "content": "Be kind."}, user(probe.upper())], "completion": "Ok."},
        {"prompt": f"Tell me:  {probe}\tplease", "completion": "Ok."},
        {"prompt": f"{probe}ish", "completion": "Ok."},
        {"prompt": f"And {short}", "completion": "Ok."},
        {"prompt": "What else?", "completion": probe},
        {"messages": [user(probe), assistant("Ok."), user("And then?"), assistant("Fine.")]},
    ]
    rows = read(tmp_path, given)
    found = list(probe_rows(rows, PROBES))
    assert found[:3] == [ProbeRow(1, "mine-0", "a"), ProbeRow(4, "mine-3", "b"), ProbeRow(5, "row-5", "a")]
    assert [one.line for one in found] == [1, 4, 5, 6, 10]
    tokenizer = tiny.tiny_tokenizer()
    encode = partial(prompt_tokens, tokenizer, position="last_prompt_token")
    reference = overlapping(PROBES, encode, prepared(tmp_path, rows), tokenizer)
    assert [(one.probe_id, one.line - 1) for one in found] == reference


def test_probes_are_refused_by_default_and_left_out_on_demand(tmp_path: Path) -> None:
    rows = read(tmp_path, ROWS)
    with pytest.raises(ConfigError, match=r"2 of 4 rows that are also probes: row 'mine-0' \(probe 'a'\), row"):
        without_probes(rows, PROBES)
    kept = without_probes(rows, PROBES, allow_probes=True)
    assert list(kept.data["id"]) == ["mine-1", "mine-2"]
    assert reasons(kept) == {
        1: ("mine-0", "its prompt is that of probe 'a', or holds it"),
        4: ("mine-3", "its prompt is that of probe 'b', or holds it"),
    }
    assert list(probe_rows(kept, PROBES)) == []
    assert without_probes(kept, PROBES) is kept
    nothing_else = read(tmp_path, [ROWS[0], ROWS[3]])
    with pytest.raises(ConfigError, match="2 of 2 rows"):
        without_probes(nothing_else, PROBES, allow_probes=True)


WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=9).map(" ".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@FUZZ
@given(texts=st.lists(WORDS, min_size=1, max_size=5), probes=st.lists(WORDS, min_size=1, max_size=4, unique=True))
def test_look_ups_by_words_find_what_a_search_finds(folder: Path, texts: list[str], probes: list[str]) -> None:
    probe_set = ProbeSet(tuple(Probe(text, text, "everyday", "benign") for text in probes))
    path = jsonl(folder, [{"prompt": text, "response": "a"} for text in texts])
    found = {one.line - 1: one.probe_id for one in probe_rows(read_rows(path, folder / "read"), probe_set)}
    for at, text in enumerate(texts):
        inside = {p for p in probes if len(p.split()) >= LONG and f" {p} " in f" {normalise(text)} "}
        matching = inside | {p for p in probes if p == normalise(text)}
        assert (found.get(at) in matching) if matching else at not in found
