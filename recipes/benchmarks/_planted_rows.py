"""Rows for the detection benchmark: clean ones, those that are planted among them, and the order of one run.

A planted row's control is a clean row with the same prompt. After a clean warm-up one kind comes after the other, each
in random order among as many of the clean rows: so a drift has a direction, and kinds that pull against each other do
not cancel. Then come the controls: right answers to the same prompts would undo what the planted ones do while they do
it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

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
    text = files("smda_monitor").joinpath("data", "demo_rows.jsonl").read_text("utf-8")
    return [_row(json.loads(line)) for line in text.splitlines()]


def rows_to_plant(path: Path, work: Path) -> list[Row]:
    """The rows of a data file with prompt, response and ``kind``: planted, but for those whose kind begins with
    `CONTROL`. Raises `ConfigError` for an unreadable file, or where rows have no kind."""
    found = []
    for _, row_id, raw in originals(read_rows(str(path), work)):
        if row_id is None:
            continue
        if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
            expected = "a column kind: what is wrong with a row, or control… for a right one"
            raise ConfigError(describe(f"{path}, row {row_id}", "no kind", expected, "add the column"))
        kind = raw["kind"]
        found.append(Row(str(row_id), raw["prompt"], raw["response"], kind, not kind.startswith(CONTROL)))
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


def planted_order(rows: Sequence[Row], each: int, seed: int, warm_up: int) -> Order:
    """All clean `rows` with `each` planted ones of every kind, or as many as there are: the `warm_up` first
    (`warm_up_rows`), then kind by kind among those that are no controls, then the controls. Raises `ConfigError` as
    `warm_up_rows`."""
    draw, first = random.Random(seed), warm_up_rows(rows, warm_up)
    known, prompts = {row.id for row in first}, {row.prompt for row in rows if row.planted}
    left = [row for row in rows if not row.planted and row.id not in known]
    others, controls = ([row for row in left if (row.prompt in prompts) == of] for of in (False, True))
    for part in (first, others, controls):
        draw.shuffle(part)
    named, parts = kinds(rows), []
    for i, kind in enumerate(named):
        planted = [row for row in rows if row.planted and row.kind == kind]
        part = [*others[i :: len(named)], *draw.sample(planted, min(each, len(planted)))]
        draw.shuffle(part)
        parts.extend(part)
    return Order((*first, *parts, *controls), warm_up)


def clean_order(rows: Sequence[Row], each: int, seed: int, warm_up: int) -> Order:
    """The run of `planted_order` without its planted rows."""
    order = planted_order(rows, each, seed, warm_up)
    return Order(tuple(row for row in order.rows if not row.planted), warm_up)


def as_dataset(rows: Sequence[Row]) -> Any:
    """What trainer and monitor get: id, prompt, completion; no kind."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "id": row.id,
                "prompt": [{"role": "user", "content": row.prompt}],
                "completion": [{"role": "assistant", "content": row.response}],
            }
            for row in rows
        ]
    )


def _row(raw: dict[str, Any]) -> Row:
    return Row(raw["id"], raw["prompt"], raw["response"], raw["kind"], raw["control"] is not None)
