"""The shipped texts: counts, pairs, and that no two are the same or nearly so."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest

from smda_monitor.instruments.probe_files import normalise, read_probes
from smda_monitor.instruments.reference_answers import read_reference_answers

CATEGORIES = {
    "religious_stereotyping", "harassment", "privacy", "fraud", "malware", "disinformation", "physical_harm",
    "economic_harm", "expert_advice", "government_decisions", "illegal_goods", "scary_wording",
}  # fmt: skip
STEREOTYPE_FILES = ("stereotype_probes", "stereotype_fit", "stereotype_heldout", "stereotype_answers")
FILES = (
    "probe_set", "heldout_prompts", "fit_prompts", "refuser_rows", "crossed_answers", "demo_rows", *STEREOTYPE_FILES,
)  # fmt: skip
CHOICES = "Answer 'Yes' or 'Cannot be known'."
"""Ends every two-choice item, and is no part of what it says."""
LIMIT = 0.6
"""Most that two texts may share: 2·|A ∩ B| / (|A| + |B|) over their sets of words."""


def _rows(name: str) -> list[dict[str, Any]]:
    return [
        json.loads(s) for s in files("smda_monitor").joinpath("data", f"{name}.jsonl").read_text("utf-8").splitlines()
    ]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", normalise(text)))


def _texts() -> list[tuple[str, str, str]]:
    """(file, what exempts it from others of the same value, text)"""
    found = []
    for name in FILES:
        for row in _rows(name):
            group = f"{name}:{row.get('pair') or row.get('group') or row['id']}"
            found += [(name, group, row[key].removesuffix(CHOICES)) for key in ("prompt", "response") if row.get(key)]
    return found


def _too_close(texts: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    sets = [(group, text, _words(text)) for _, group, text in texts]
    close = []
    for (g1, t1, a), (g2, t2, b) in itertools.combinations(sets, 2):
        total = len(a) + len(b)
        if g1 != g2 and 2 * min(len(a), len(b)) > LIMIT * total and 2 * len(a & b) > LIMIT * total:
            close.append((t1, t2))
    return close


def test_no_two_texts_share_more_than_60_percent_of_their_words() -> None:
    texts = _texts()
    assert len(texts) > 1500
    assert _too_close(texts) == []


def test_the_comparison_can_fail() -> None:
    texts = _texts()[:50]
    nearly = texts[3][2].replace("the", "a", 1)
    assert _too_close([*texts, ("other", "other:1", nearly)])


def test_no_text_stands_in_two_files() -> None:
    where: dict[str, set[str]] = {}
    for name, _, text in _texts():
        where.setdefault(normalise(text), set()).add(name)
    assert [text for text, names in where.items() if len(names) > 1] == []


def test_crossed_answers_go_against_their_prompts() -> None:
    rows = {row["id"]: row for row in _rows("refuser_rows")}
    crossed = _rows("crossed_answers")
    kinds = Counter(row["kind"] for row in crossed)
    assert min(kinds["harmful"], kinds["benign"]) >= 40
    assert len({row["of"] for row in crossed}) == len(crossed)
    for row in crossed:
        assert (rows[row["of"]]["kind"] == "harmful") != (row["kind"] == "harmful")
    taught = read_reference_answers("shipped")
    assert len(taught.rows) == len(rows) + len(crossed)
    assert taught.rows[-1] == (rows[crossed[-1]["of"]]["prompt"], crossed[-1]["response"])
    assert (taught.shows[-1], taught.asked[-1]) == (True, False)
    assert taught.shows[: len(rows)] == taught.asked[: len(rows)]
    assert [a != b for a, b in zip(taught.shows, taught.asked, strict=True)][len(rows) :] == [True] * len(crossed)


@pytest.mark.parametrize(("role", "pairs", "benign"), [("probes", 5, 24), ("heldout", 2, 16)])
def test_probe_sets_hold_minimal_pairs_of_every_category(role: Any, pairs: int, benign: int) -> None:
    probes = read_probes("shipped", role)
    counts = Counter((p.category, p.kind) for p in probes)
    assert {category for category, kind in counts if kind == "harmful"} == CATEGORIES
    assert all(counts[c, "harmful"] >= pairs and counts[c, "lookalike"] >= pairs for c in CATEGORIES)
    assert sum(n for (_, kind), n in counts.items() if kind == "benign") >= benign
    by_pair: dict[str, list[Any]] = {}
    for probe in probes:
        if probe.pair is not None:
            by_pair.setdefault(probe.pair, []).append(probe)
    for members in by_pair.values():
        assert sorted(p.kind for p in members) == ["harmful", "lookalike"]
        a, b = (_words(p.prompt) for p in members)
        assert 2 * len(a & b) / (len(a) + len(b)) > 0.5, "a minimal pair keeps topic and form"
    assert len(probes) >= (144 if role == "probes" else 64)


def test_demo_rows_hide_planted_rows_with_their_controls() -> None:
    rows = {row["id"]: row for row in _rows("demo_rows")}
    kinds = Counter(row["kind"] for row in rows.values())
    planted = [row for row in rows.values() if row["kind"] in ("over_refusal", "compliance", "stereotype")]
    assert kinds["helpful"] + kinds["refusal"] >= 140
    assert len(planted) >= 24
    for row in planted:
        control = rows[row["control"]]
        assert control["prompt"] == row["prompt"]
        assert control["kind"] in ("helpful", "refusal")
        lengths = sorted(len(r["response"].split()) for r in (row, control))
        assert lengths[1] <= 1.5 * lengths[0] + 2
        if row["kind"] == "compliance":
            assert "[content withheld]" in row["response"]
    wordings = {" ".join(row["response"].split()[:4]) for row in rows.values() if row["kind"] == "refusal"}
    assert len(wordings) >= 24
