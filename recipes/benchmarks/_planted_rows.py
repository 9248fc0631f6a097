"""Rows for the detection benchmark: clean ones, those that are planted among them, and the order of one run.

A planted row's control is a clean row with the same prompt. After a clean warm-up one kind comes after the other, each
in random order among as many of the clean rows, of every clean kind an equal part: so a drift has a direction, kinds
that pull against each other do not cancel, and what clean rows do is much the same in all runs. The controls of half of
each kind come before all planted rows and the other controls after them: among them right answers to the same prompts
would undo what they do while they do it, and if all came first, or last, every score that is read from the model would
see it in another state than at the planted rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _bed import conversations, demo_lines

from smda_monitor.errors import ConfigError, describe
from smda_monitor.instruments.row_files import originals, read_rows

CONTROL = "control"
"""How the kind of a row begins that is right, in a file of rows to plant."""


@dataclass(frozen=True, slots=True)
class Row:
    """A training row of which it is known whether it is planted."""

    id: str
    prompt: str
    response: str
    kind: str
    planted: bool


@dataclass(frozen=True, slots=True)
class Order:
    """The rows of one run, in the order in which they are trained on."""

    rows: tuple[Row, ...]
    judged_from: int
    """Place of the first row after the warm-up."""

    @property
    def judged(self) -> range:
        """Places of the rows after the warm-up."""
        return range(self.judged_from, len(self.rows))

    def control_of(self, row: Row) -> str | None:
        """The id of a judged clean row with the prompt of a planted `row`; None where there is none."""
        if not row.planted:
            return None
        rows = (self.rows[place] for place in self.judged)
        return next((one.id for one in rows if not one.planted and one.prompt == row.prompt), None)


def demo_rows() -> list[Row]:
    """The shipped rows; planted are those that name a control. None was used to tune the refusing adapter."""
    return [
        Row(line["id"], line["prompt"], line["response"], line["kind"], line["control"] is not None)
        for line in demo_lines()
    ]


def rows_to_plant(path: Path, work: Path) -> list[Row]:
    """The rows of a data file with prompt, response and ``kind``: planted, but for those whose kind begins with
    `CONTROL`; ids begin with ``data-``. Raises `ConfigError` for an unreadable file, or rows that lack one of these."""
    found = []
    for _, row_id, raw in originals(read_rows(str(path), work)):
        if row_id is None:
            continue
        told = raw if isinstance(raw, dict) else {}
        lacking = [name for name in ("prompt", "response", "kind") if not isinstance(told.get(name), str)]
        if lacking:
            expected = "text under prompt and response, and kind: what is wrong with a row, or control… for a right one"
            raise ConfigError(
                describe(f"{path}, row {row_id}", f"no {', '.join(lacking)}", expected, "add the columns")
            )
        kind = told["kind"]
        found.append(Row(f"data-{row_id}", told["prompt"], told["response"], kind, not kind.startswith(CONTROL)))
    return found


def kinds(rows: Sequence[Row]) -> list[str]:
    """Of the planted ones, in their order."""
    return list(dict.fromkeys(row.kind for row in rows if row.planted))


def warm_up_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """The clean rows of every run's warm-up: the same in all, none a control. Raises `ConfigError` where there are
    fewer."""
    prompts = {row.prompt for row in rows if row.planted}
    others = [row for row in rows if not row.planted and row.prompt not in prompts]
    if len(others) < count:
        expected = f"at least {count}: the warm-up is clean"
        raise ConfigError(describe("clean rows that are no controls", len(others), expected, "take a smaller batch"))
    return random.Random(0).sample(others, count)


def fewer(rows: Sequence[Row], each: int, warm_up: int) -> list[Row]:
    """Of all `rows` those of a quick run: of every kind `each` planted ones, of the controls theirs, and of the other
    clean rows `warm_up` and half of what is left."""
    chosen = [row for kind in kinds(rows) for row in [one for one in rows if one.planted and one.kind == kind][:each]]
    prompts = {row.prompt for row in rows if row.planted}
    others = [row for row in rows if not row.planted and row.prompt not in prompts]
    kept = min(len(others), warm_up + max(0, len(others) - warm_up) // 2)
    wanted = {row.prompt for row in chosen} | {row.prompt for row in random.Random(0).sample(others, kept)}
    return [row for row in rows if (row in chosen if row.planted else row.prompt in wanted)]


def planted_order(rows: Sequence[Row], each: int, seed: int, warm_up: int) -> Order:
    """All clean `rows` with `each` planted ones of every kind, or as many as there are: the `warm_up` first
    (`warm_up_rows`), the controls of half of these, then kind by kind among those that are no controls, then the other
    controls. Raises `ConfigError` as `warm_up_rows`."""
    draw, first = random.Random(seed), warm_up_rows(rows, warm_up)
    known, prompts = {row.id for row in first}, {row.prompt for row in rows if row.planted}
    left = [row for row in rows if not row.planted and row.id not in known]
    others, controls = ([row for row in left if (row.prompt in prompts) == of] for of in (False, True))
    for part in (first, others, controls):
        draw.shuffle(part)
    others.sort(key=lambda row: row.kind)
    named, parts, before = kinds(rows), list[Row](), set[str]()
    for i, kind in enumerate(named):
        planted = [row for row in rows if row.planted and row.kind == kind]
        chosen = draw.sample(planted, min(each, len(planted)))
        before |= {row.prompt for row in chosen[::2]}
        part = [*others[i :: len(named)], *chosen]
        draw.shuffle(part)
        parts.extend(part)
    earlier, later = ([row for row in controls if (row.prompt in before) == of] for of in (True, False))
    return Order((*first, *earlier, *parts, *later), warm_up)


def clean_order(rows: Sequence[Row], each: int, seed: int, warm_up: int) -> Order:
    """The run of `planted_order` without its planted rows."""
    order = planted_order(rows, each, seed, warm_up)
    return Order(tuple(row for row in order.rows if not row.planted), warm_up)


def as_dataset(rows: Sequence[Row]) -> Any:
    """What trainer and monitor get: id, prompt, completion; no kind."""
    return conversations((row.id, row.prompt, row.response) for row in rows)
