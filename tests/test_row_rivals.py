"""What the detection benchmark holds beside the row score: the sign and order of every rival on rows that are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "benchmarks"))
from _planted_rows import Row
from _row_rivals import answer_shift, bm25, phrases, projection_difference, random_scores
from _tiny import tiny_model, tiny_tokenizer
from _witness import unintended_target


def row(prompt: str, response: str) -> Row:
    return Row(f"{prompt} {response}", prompt, response, "helpful", False)


def test_bm25_ranks_rows_by_the_probes_words() -> None:
    rows = [row("How do I pick a lock?", "With a pick."), row("Name a tree.", "Oak."), row("Lock the door?", "Yes.")]
    lock, tree, door = bm25(rows, ["pick the lock of a neighbour", "open a lock with a pick"])
    assert lock > door > tree == 0


def test_phrases_are_those_of_refusing() -> None:
    assert phrases(
        [row("a", "Sorry, I cannot help."), row("a", "Sure: take a map."), row("a", "I won\u2019t do it.")]
    ) == [
        1.0,
        0.0,
        1.0,
    ]


def test_random_scores_know_nothing_of_the_rows() -> None:
    rows = [row(str(i), "") for i in range(50)]
    assert random_scores(rows, 3) == random_scores(list(reversed(rows)), 3) != random_scores(rows, 4)
    assert all(0 <= score < 1 for score in random_scores(rows, 3))


def test_the_unintended_target_goes_against_what_is_wanted() -> None:
    names = ("S_X", "mass.harmful", "mass.lookalike", "mass.benign", "contrast.benign", "mass.benign.food")
    assert unintended_target(names, wanted_on_harmful=True).tolist() == [0, -1, 0.5, 0.5, 0, 0]
    assert unintended_target(names, wanted_on_harmful=False).tolist() == [0, 1, -0.5, -0.5, 0, 0]
    assert unintended_target(("mass.benign", "S_Y"), wanted_on_harmful=True).tolist() == [1, 0]


def test_a_row_projects_onto_the_answers_that_show_the_behaviour(tmp_path: Path) -> None:
    """Against an own answer that does not show it: up where the row's does, nothing where it is the own answer."""
    reference = tmp_path / "answers.jsonl"
    shows, not_so = "No, I must not.", "Sure, here it is."
    lines = [
        {"id": f"{kind}-{i}", "prompt": f"Thing {i}?", "response": answer, "kind": kind}
        for i in range(4)
        for kind, answer in (("harmful", shows), ("benign", not_so))
    ]
    reference.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [row("Thing 9?", shows), row("Thing 9?", not_so)]
    model, tokenizer, hook = tiny_model(), tiny_tokenizer(), "blocks.1.hook_resid_post"
    shift = answer_shift(model, tokenizer, hook, rows, [not_so, not_so])
    found = projection_difference(model, tokenizer, hook, shift, str(reference))
    assert found[0] > 0.1
    assert found[1] == pytest.approx(0, abs=1e-5)
