"""`smda audit` on data as people write it: conversations of several turns, tables with gaps, rows that are none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from audit_home import TRAINING, lines_of, make_home, write_lines

from smda_monitor.cli import main
from smda_monitor.outputs.row_audit_tables import read_judged
from smda_monitor.records.row_audit import RowAudit

TURNS = [
    {"role": "user", "content": "a first question"},
    {"role": "assistant", "content": "one answer"},
    {"role": "user", "content": "and now?"},
    {"role": "assistant", "content": "the last word"},
]
FILLERS = [[{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"say {i}"}] for i in range(4)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("reading"))


def judged(home: Path, data: Path, out: str, audit: dict[str, Any], **arguments: Any) -> dict[str, RowAudit]:
    """The audit of `data` on the model as it is, with settings of its own; by row id."""
    config = yaml.safe_load((home / "config.yaml").read_text())
    config["data_audit"] |= {"warm_up": 0, "check": 0, **audit}
    config["training"]["arguments"] = {**TRAINING, **arguments}
    path = home / f"{out}.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["audit", str(data), "--config", str(path), "--out", str(home / out)]) == 0
    return {one.entry.row_id: one for one in read_judged(home / out / "judged")}


@pytest.fixture(scope="module")
def pairs(home: Path) -> dict[str, RowAudit]:
    """The same conversation in three forms, among others: whole, as prompt and last answer, and its parts alone."""
    rows: list[dict[str, Any]] = [
        {"id": "whole", "messages": TURNS},
        {"id": "pair", "prompt": TURNS[:3], "response": TURNS[3]["content"]},
        {"id": "first", "prompt": TURNS[0]["content"], "completion": TURNS[1]["content"]},
        {"id": "last", "prompt": TURNS[2]["content"], "completion": TURNS[3]["content"]},
    ]
    write_lines(home / "pairs.jsonl", rows)
    return judged(home, home / "pairs.jsonl", "pairs", {})


def test_a_conversation_is_judged_as_its_last_answer_after_all_before_it(pairs: dict[str, RowAudit]) -> None:
    whole, pair = pairs["whole"].entry, pairs["pair"].entry
    assert (whole.row_hash, whole.tokens) == (pair.row_hash, pair.tokens)
    assert whole.push == pytest.approx(pair.push, rel=1e-5)
    assert (whole.own_mass, whole.own_push) == pytest.approx((pair.own_mass, pair.own_push), rel=1e-5)
    for other in ("first", "last"):
        assert abs(pairs[other].entry.own_mass - whole.own_mass) > 1e-3, "its prompt is another"


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all tokens": ({}, {}),
    "its answers": ({}, {"assistant_only_loss": True}),
    "the paper's": ({"update": "paper"}, {}),
}


@pytest.mark.parametrize("method", ["gradient", "replay"])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_carries_loss_the_own_prompt_ends_before_the_last_answer(
    home: Path, pairs: dict[str, RowAudit], way: str, method: str
) -> None:
    """On the model as it is the reading of a prompt does not depend on what is trained."""
    audit, arguments = WAYS[way]
    conversations = [{"id": "whole", "messages": TURNS}, *({"messages": turns} for turns in FILLERS)]
    write_lines(home / "messages.jsonl", conversations)
    out = f"{way}-{method}".replace(" ", "-")
    entry = judged(home, home / "messages.jsonl", out, {**audit, "method": method}, **arguments)["whole"].entry
    assert entry.own_mass == pytest.approx(pairs["whole"].entry.own_mass, abs=1e-4)
    tokenizer = tiny.tiny_tokenizer()
    answers = [len(tokenizer(f"{turn['content']}<|end|>")["input_ids"]) for turn in (TURNS[1], TURNS[3])]
    everything = len(tokenizer(tokenizer.apply_chat_template(TURNS, tokenize=False))["input_ids"])
    # The first token of all is predicted from nothing.
    assert entry.tokens == {"all tokens": everything - 1, "its answers": sum(answers), "the paper's": answers[1]}[way]


def test_conversations_judged_by_their_last_answers_can_be_curated(home: Path) -> None:
    write_lines(home / "talks.jsonl", [{"messages": TURNS}, *({"messages": turns} for turns in FILLERS)])
    assert len(judged(home, home / "talks.jsonl", "talks", {"update": "paper"})) == 5
    assert main(["curate", str(home / "talks"), "--json", str(home / "curated.json")]) == 0
    assert sum(json.loads((home / "curated.json").read_text())["rows"].values()) == 5


def test_what_cannot_be_trained_on_is_listed_with_its_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = [*TURNS[:3], {"role": "assistant", "content": "word " * 40}]
    rows = [
        {"id": "good", "messages": TURNS},
        "{broken",
        {"prompt": "no answer"},
        {"prompt": "   ", "response": "no prompt"},
        {"prompt": "a question", "response": ""},
        {"messages": TURNS[:3]},
        {"messages": [*TURNS[:2], {"role": "user", "content": ""}, TURNS[3]]},
        {"messages": [{"role": "wizard", "content": "abra"}, TURNS[3]]},
        {"id": "long", "messages": long},
        '["a", "list"]',
        {"id": "good", "prompt": "the same id", "response": "again"},
        {"id": "also", "prompt": "fine", "response": "yes"},
    ]
    write_lines(home / "strange.jsonl", rows)
    found = judged(home, home / "strange.jsonl", "strange", {})
    assert {name: one.line for name, one in found.items()} == {"good": 1, "also": 12}
    assert "10 left out" in capsys.readouterr().out
    reasons = {row["line"]: row["reason"] for row in lines_of(home / "strange" / "left_out.jsonl")}
    assert sorted(reasons) == list(range(2, 12))
    expected = {
        2: "no JSON",
        3: "no answer",
        4: "no prompt",
        5: "empty answer",
        6: "do not end with an assistant message",
        7: "message 3 has no content",
        8: "unknown role 'wizard'",
        9: "more than the 64 of max_length",
        10: "no object with keys",
        11: "id 'good' again, as in line 1",
    }
    for line, words in expected.items():
        assert words in reasons[line], line


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_with_gaps_is_read_too(home: Path, ending: str) -> None:
    rows = [("a", "one?", "1"), ("b", "two?", None), ("c", None, "3"), ("d", "four?", "4")]
    path = home / f"table.{ending}"
    if ending == "csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([("id", "prompt", "response"), *rows])
    else:
        from datasets import Dataset

        columns = dict(zip(("id", "prompt", "response"), map(list, zip(*rows, strict=True)), strict=True))
        Dataset.from_dict(columns).to_parquet(path)
    found = judged(home, path, ending, {})
    assert {name: one.line for name, one in found.items()} == {"a": 1, "d": 4}
    assert [(row["line"], row["id"]) for row in lines_of(home / ending / "left_out.jsonl")] == [(2, "b"), (3, "c")]
    assert json.loads((home / ending / "summary.json").read_text())["left_out"] == 2
